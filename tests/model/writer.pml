/* single-writer: the writer maps, then the file is sealed against later writers, then others get
 * descriptors. Whatever those try, only the writer changes bytes; and it can.
 *
 * A mapping that was made before F_SEAL_FUTURE_WRITE keeps the right to write, also one for
 * reading: mprotect turns it into one for writing.
 */
bool sealed, given, said, maps_write, alive = true;
bool other_maps, other_may_write;

active proctype writer()
{
    if
    :: !sealed -> maps_write = true
#ifdef MUTANT_SEAL_FIRST
    :: sealed /* EPERM */
#endif
    fi
    said = true;
    do
    :: alive -> assert(maps_write) /* it writes */
    :: d_step { alive -> alive = false; maps_write = false } break /* killed */
    od
}

active proctype daemon()
{
#ifdef MUTANT_SHARE_FIRST
    given = true;
#endif
#ifndef MUTANT_SEAL_FIRST
end:
    said; /* a writer that never says so is reclaimed */
#endif
    sealed = true;
    given = true
}

active proctype other()
{
    given;
    d_step { other_maps = true; other_may_write = !sealed } /* for reading, or for writing */
    assert(!other_may_write) /* writes */
}
