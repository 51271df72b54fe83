#include "core/device.h"

#include "core/fields.h"

#include <string.h>

enum td_status devices_open(const struct device_options *options, struct devices *out)
{
    memset(out, 0, sizeof *out);
    TRY(device_cpu_open(options, &out->list[0]));
    out->count = 1;
    enum td_status status = device_cuda_open(options, out);
    if (status != TD_OK)
        devices_close(out);
    return status;
}

void devices_close(struct devices *devices)
{
    for (int i = devices->count - 1; i > 0; i--)
        device_cuda_close(devices->list[i]);
    if (devices->count)
        device_cpu_close(devices->list[0]);
    devices->count = 0;
}

static bool looks_like_cuda(struct text name)
{
    if (text_equal(name, "cuda"))
        return true;
    if (name.length < 6 || name.length > 9 || memcmp(name.data, "cuda:", 5) != 0)
        return false;
    for (size_t i = 5; i < name.length; i++)
        if (name.data[i] < '0' || name.data[i] > '9')
            return false;
    return true;
}

enum td_status devices_find(const struct devices *devices, const char *name, size_t length,
                            struct device **out)
{
    struct text wanted = {name, length};
    bool first_cuda = text_equal(wanted, "cuda") && devices->count > 1;
    for (int i = 0; i < devices->count; i++)
        if (text_equal(wanted, devices->list[i]->name) || (first_cuda && i == 1)) {
            *out = devices->list[i];
            return TD_OK;
        }
    if (!looks_like_cuda(wanted))
        return fail(TD_NO_DEVICE, "Invalid device string: '%.*s'; expected cpu, cuda or cuda:N",
                    TEXT_ARGS(wanted));
    if (devices->count > 1)
        return fail(TD_NO_DEVICE,
                    "CUDA error: invalid device ordinal: there is no '%.*s' here, the last is '%s'",
                    TEXT_ARGS(wanted), devices->list[devices->count - 1]->name);
    return fail(TD_NO_DEVICE,
                "No CUDA GPUs are available: no CUDA device '%.*s' (%s); use the device cpu",
                TEXT_ARGS(wanted), device_cuda_absence());
}
