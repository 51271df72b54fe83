/* print_tensor for ctypes: plain arguments, and a layout that PyTorch vouches for. */
#include "core/print.h"

#include <stdlib.h>

int print_shim(int dtype, int rank, const int64_t *shape, const int64_t *strides,
               int64_t offset_bytes, const void *storage, const char *device, int requires_grad,
               const char *grad_fn, const struct print_options *options, char **text);
void print_shim_free(char *text);
const char *print_shim_detail(void);
const char *print_shim_dtype(int dtype);

int print_shim(int dtype, int rank, const int64_t *shape, const int64_t *strides,
               int64_t offset_bytes, const void *storage, const char *device, int requires_grad,
               const char *grad_fn, const struct print_options *options, char **text)
{
    struct layout layout = {
        .dtype = (enum td_dtype)dtype,
        .rank = rank,
        .offset_bytes = offset_bytes,
        .elements = 1,
    };
    for (int dim = 0; dim < rank; dim++) {
        layout.shape[dim] = shape[dim];
        layout.strides[dim] = strides[dim];
        layout.elements *= shape[dim];
    }
    const struct printed printed = {
        .layout = &layout,
        .storage_base = storage,
        .dtype = layout.dtype,
        .device = device,
        .requires_grad = requires_grad != 0,
        .grad_fn = grad_fn,
    };
    return (int)print_tensor(&printed, options ? options : &print_defaults, text);
}

void print_shim_free(char *text)
{
    free(text);
}

const char *print_shim_detail(void)
{
    return fail_detail();
}

const char *print_shim_dtype(int dtype)
{
    return td_dtype_name(dtype);
}
