/* The CUDA device of a build without CUDA: there is none, and the error says so. */
#include "core/device.h"

enum td_status device_cuda_open(const struct device_options *options, struct devices *devices)
{
    (void)options;
    (void)devices;
    return TD_OK;
}

void device_cuda_close(struct device *device)
{
    (void)device;
}

const char *device_cuda_absence(void)
{
    return "this tensord was built without CUDA";
}
