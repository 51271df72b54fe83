/* interrupt: Ctrl-C while a call waits for the daemon.
 *
 * Compiled into the cffi module (build_ffi.py), which has included Python.h. libtensord asks here
 * when a signal interrupted its waiting. Python's signal handlers run then; what one of them raises
 * (KeyboardInterrupt) cannot pass through libtensord, so it is kept and raised again as soon as
 * Python runs on, which is before the call's own error is looked at.
 */

/* Under Python's lock. Handlers run in the main thread only, so there is one at a time. */
static PyObject *tdpy_raised[3]; /* type, value, traceback */

/* Called by Python in the main thread. */
static int tdpy_raise_again(void *nothing)
{
    PyObject *type = tdpy_raised[0], *value = tdpy_raised[1], *traceback = tdpy_raised[2];
    (void)nothing;
    memset(tdpy_raised, 0, sizeof tdpy_raised);
    if (!type)
        return 0;
    PyErr_Restore(type, value, traceback);
    return -1;
}

/* An interrupted of td_options. Called without Python's lock. */
static bool tdpy_interrupted(void *nothing)
{
    (void)nothing;
    PyGILState_STATE state = PyGILState_Ensure();
    bool raised = PyErr_CheckSignals() < 0;
    if (raised) {
        for (int i = 0; i < 3; i++) /* a second Ctrl-C within the same call */
            Py_CLEAR(tdpy_raised[i]);
        PyErr_Fetch(&tdpy_raised[0], &tdpy_raised[1], &tdpy_raised[2]);
        if (Py_AddPendingCall(tdpy_raise_again, NULL) < 0) { /* too many others wait */
            (void)tdpy_raise_again(NULL);
            PyErr_WriteUnraisable(NULL);
        }
    }
    PyGILState_Release(state);
    return raised;
}
