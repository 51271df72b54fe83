/* allocate, fill, publish(frozen): once the name is visible its bytes never change, whatever the
 * publisher, what it forked, and readers do.
 *
 * The kernel refuses to seal (EBUSY) while anybody maps the file shared and writable, and refuses
 * such mappings afterwards. A good publisher lets go of its own before it asks. Others ask first
 * and go on writing, or have forked a child that still maps; then the daemon waits, tries again,
 * and after the deadline publishes a copy.
 */
#define A 0 /* the allocation: its descriptor left the daemon while it could be written */
#define B 1 /* the copy */
#define NONE 2
#define FULL 1  /* what the publisher writes before it asks */
#define LATE 2  /* what anybody writes later */

byte low[2], high[2];      /* the bytes of A and B, that nobody writes or copies all at once */
bool sealed[2], freed[2];
bool publisher_maps, child_maps, daemon_maps = true; /* A, writable */
bool intruder_maps;        /* a reader, the published file, writable */
bool lease = true;         /* the publisher's `fill` lease */
bool call, alive = true, ended, asked, copied;
byte visible = NONE;       /* the file behind the name */
byte view = A;             /* the file that the publisher has been told of */
bool late;                 /* somebody wrote after the publisher asked, or behind its back */
byte seen_low, seen_high;  /* the bytes as they became visible */

#ifdef MUTANT_STALE_HANDLE
#define VIEW A
#else
#define VIEW view
#endif
#define OUTSIDE_MAPS (publisher_maps || child_maps)
#define WRITE(f, half, value) assert(f != visible && !sealed[f]); half[f] = value

inline drop_a() { freed[A] = !lease && !call && visible != A }

active proctype publisher()
{
    bool again = false;
    {
        publisher_maps = true;
        d_step { WRITE(A, low, FULL) }
        d_step { WRITE(A, high, FULL) }
        if
        :: child_maps = true /* forks */
        :: true
        fi
        if
        :: publisher_maps = false /* replaces it by one that cannot write */
        :: true
        fi
        d_step { asked = true; call = true }
        do
        :: d_step { publisher_maps -> WRITE(A, low, LATE); late = true }
        :: publisher_maps -> publisher_maps = false
        :: d_step { !sealed[A] && !again -> again = true; publisher_maps = true }
        :: d_step { lease && !publisher_maps && visible == NONE -> lease = false; drop_a() }
        :: d_step { view == A && visible != NONE ->
#ifndef MUTANT_STALE_HANDLE /* after "copied" it goes on looking at its own memory */
            publisher_maps = false;
            lease = false;
            drop_a();
#endif
            view = visible }
        :: d_step { view != A || visible == A -> /* reads by its own handle */
            assert(low[VIEW] == seen_low && high[VIEW] == seen_high) }
        od
    } unless { !alive }
}

/* A process with a mapping of the publisher's that outlives it. */
active proctype child()
{
end:
    do
    :: d_step { child_maps -> WRITE(A, low, LATE); late = true }
    :: d_step { child_maps -> child_maps = false }
    od
}

/* Whoever reads: maps for reading, and tries what else the descriptor allows. */
active proctype reader()
{
end_unpublished:
    visible != NONE;
end:
    do
    :: assert(!freed[visible] && low[visible] == seen_low && high[visible] == seen_high)
#ifndef MUTANT_RECYCLE /* there nobody has a descriptor yet */
    :: d_step { !sealed[visible] -> intruder_maps = true }
    :: d_step { intruder_maps -> WRITE(visible, low, LATE) }
#endif
    od
}

active proctype death()
{
    d_step { alive = false; publisher_maps = false }
    d_step {
        ended = true;
        lease = false;
#ifdef MUTANT_VANISH /* what its publish works on as well */
        freed[A] = visible != A;
#else
        drop_a();
#endif
    }
}

inline publish(file)
{
    d_step {
        visible = file;
        seen_low = low[file];
        seen_high = high[file];
        /* Nobody who behaved is ever published half written. */
        assert(late || (low[file] == FULL && high[file] == FULL));
    }
}

active proctype daemon()
{
    if
    :: asked
    :: ended && !asked -> goto reclaimed
    fi
#ifdef MUTANT_PUBLISH_FIRST
    publish(A);
#endif
#ifndef MUTANT_OWN_MAPPING
    daemon_maps = false;
#endif
    do
    :: atomic { !OUTSIDE_MAPS && !daemon_maps -> sealed[A] = true }
       publish(A);
       break
    :: atomic { OUTSIDE_MAPS || daemon_maps -> skip } /* EBUSY */
#ifdef MUTANT_SEAL_BLIND /* goes on without the seal */
       publish(A);
       break
#endif
       if
       :: !lease -> /* the writer let go, or is gone: try again */
#ifdef MUTANT_TRUST_LEASE /* no need to look */
          publish(A);
          break
#endif
          skip
       :: true -> /* some other time before the deadline */
       :: d_step { OUTSIDE_MAPS || daemon_maps -> /* the deadline, and a last EBUSY */
              assert(OUTSIDE_MAPS) /* never on account of the daemon's own mapping */
          }
          atomic { assert(!freed[A]); low[B] = low[A] }
          atomic { assert(!freed[A]); high[B] = high[A] }
          copied = true;
#ifndef MUTANT_COPY_UNSEALED
          sealed[B] = true;
#endif
          publish(B);
          break
       fi
    od;
    atomic { call = false; drop_a() }
    goto done;
reclaimed:
    assert(freed[A] && visible == NONE);
#ifdef MUTANT_RECYCLE /* the next put lies in memory that somebody outside may know; it is sealed
                         * only when it is shared */
    d_step { freed[A] = false; low[A] = FULL; high[A] = FULL }
    publish(A);
#endif
done:
    skip
}
