/* save: a file of tensors. */
#include "core/ops_internal.h"

enum td_status op_run_save(struct op_call *call)
{
    (void)call;
    return fail(TD_UNSUPPORTED, "save is not there yet");
}
