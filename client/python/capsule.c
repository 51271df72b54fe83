/* capsule: what Python calls when a DLPack capsule that nobody took is dropped.
 *
 * Compiled into the cffi module (build_ffi.py), which has included Python.h. A consumer renames the
 * capsule when it takes the tensor over, so the names below mean that nobody did.
 */

static const char tdpy_capsule_names[2][20] = {"dltensor", "dltensor_versioned"};

/* Called by Python, with its lock held. */
static void tdpy_capsule_free(PyObject *capsule)
{
    if (PyCapsule_IsValid(capsule, tdpy_capsule_names[true])) {
        DLManagedTensorVersioned *tensor =
            (DLManagedTensorVersioned *)PyCapsule_GetPointer(capsule, tdpy_capsule_names[true]);
        if (tensor && tensor->deleter)
            tensor->deleter(tensor);
    } else if (PyCapsule_IsValid(capsule, tdpy_capsule_names[false])) {
        DLManagedTensor *tensor =
            (DLManagedTensor *)PyCapsule_GetPointer(capsule, tdpy_capsule_names[false]);
        if (tensor && tensor->deleter)
            tensor->deleter(tensor);
    }
}

/* Addresses, for ctypes. A capsule does not copy its name, which therefore has to live here. */
static uintptr_t tdpy_capsule_destructor(void)
{
    return (uintptr_t)tdpy_capsule_free;
}

static uintptr_t tdpy_capsule_name(bool versioned)
{
    return (uintptr_t)tdpy_capsule_names[versioned];
}
