/* Who keeps a storage: the name, a queue's item, calls in flight, leases of sessions. It is freed
 * exactly when the last of them lets go; replacing and deleting the name disturb nobody; a client
 * that dies gives back all it held.
 *
 * A client maps from its lease's begin to its end. When it is killed its mappings are gone at once,
 * and some time later the daemon notices, and ends the session. Calls that run then go on.
 */
#define SESSIONS 2
#define STORAGES 3 /* how often something is published */
#define NONE STORAGES

byte made;                     /* storages so far; their numbers are never used again */
byte refs[STORAGES];           /* the count that the daemon goes by */
bool live[STORAGES];           /* its memory is there */
byte name = NONE, item = NONE; /* the storage behind the one name, in the one item */
byte loose = NONE;             /* taken out of the name or the item, and about to be let go */
byte call[SESSIONS] = NONE, lease[SESSIONS] = NONE;
byte mapped[SESSIONS] = NONE;  /* by the client itself */
bool alive[SESSIONS] = true, ended[SESSIONS];

#define HOLDERS(s) ((name == s) + (item == s) + (loose == s) + (call[0] == s) + (call[1] == s) + \
                    (lease[0] == s) + (lease[1] == s))

inline exact() /* holds between any two steps */
{
    assert(refs[0] == HOLDERS(0) && live[0] == (HOLDERS(0) > 0));
    assert(refs[1] == HOLDERS(1) && live[1] == (HOLDERS(1) > 0));
    assert(refs[2] == HOLDERS(2) && live[2] == (HOLDERS(2) > 0));
}

inline unref(holder)
{
    assert(refs[holder] > 0);
    refs[holder]--;
#ifdef MUTANT_FREE_LEASED /* looks at names, items and calls only */
    live[holder] = name == holder || item == holder || call[0] == holder || call[1] == holder;
#else
    live[holder] = refs[holder] > 0;
#endif
}

/* Another client, that publishes, deletes and queues. */
active proctype owner()
{
    do
    :: made < STORAGES ->
       d_step { /* the name's pointer is swapped under the store's lock */
           loose = name;
           name = made;
           refs[made] = 1;
           live[made] = true;
           made++;
       }
       d_step {
           if
           :: loose != NONE -> unref(loose)
           :: else
           fi
           loose = NONE;
           exact();
       }
    :: d_step { name != NONE -> loose = name; name = NONE }
       d_step { unref(loose); loose = NONE; exact() }
    :: d_step { name != NONE && item == NONE -> item = name; refs[item]++; exact() }
    :: d_step { item != NONE -> loose = item; item = NONE }
       d_step { unref(loose); loose = NONE; exact() }
    :: made == STORAGES -> break
    od
}

/* What the daemon does for the session's client, and the client. */
proctype session(byte c)
{
    byte s = NONE;
    do
    :: atomic { !ended[c] && alive[c] && name != NONE ->
           s = name; /* looks the name up: with a reference before the store's lock is let go */
#ifdef MUTANT_LOOKUP_UNLOCKED /* ... after it */
       }
       atomic {
           assert(live[s]);
#endif
#ifndef MUTANT_CALL_UNCOUNTED
           refs[s]++;
           call[c] = s;
#endif
       }
       assert(live[s]); /* here the call reads: sends the body, casts */
       atomic { /* the session's lock */
           if
#ifdef MUTANT_LEASE_AFTER_END /* nobody is left who would end it */
           :: true ->
#else
           :: ended[c]
           :: else ->
#endif
              lease[c] = s;
              refs[s]++;
           fi
       }
#ifndef MUTANT_CALL_UNCOUNTED
       d_step { call[c] = NONE; unref(s); exact() }
#endif
       if
       :: d_step { alive[c] && lease[c] == s -> mapped[c] = s }
          do
          :: d_step { mapped[c] != NONE -> assert(live[mapped[c]]) } /* the client reads */
          :: d_step { mapped[c] != NONE -> mapped[c] = NONE } break
          :: mapped[c] == NONE -> break /* it was killed */
          od
#ifdef MUTANT_RELEASE_TWICE /* takes the lease off its list, but not under one lock */
          s = lease[c];
          if
          :: d_step { s != NONE -> unref(s); lease[c] = NONE; exact() }
          :: else
          fi
#else
          atomic {
              if
              :: lease[c] != NONE -> s = lease[c]; lease[c] = NONE; unref(s); exact()
              :: else /* the session ended first */
              fi
          }
#endif
       :: !alive[c]
       fi
       s = NONE
    :: ended[c] -> break
    od
}

/* Sooner or later each client is killed; at any time afterwards the daemon notices. */
proctype death(byte c)
{
    byte s;
    d_step { alive[c] = false; mapped[c] = NONE }
    atomic {
        ended[c] = true;
#ifndef MUTANT_LEASE_LEAKS
        s = lease[c];
        if
        :: s != NONE ->
#ifndef MUTANT_RELEASE_TWICE
           lease[c] = NONE;
#endif
           unref(s)
#ifdef MUTANT_RELEASE_TWICE
           ;
           lease[c] = NONE
#endif
        :: else
        fi
#endif
    }
}

init
{
    byte c;
    atomic {
        for (c : 0 .. SESSIONS - 1) {
            run session(c);
            run death(c)
        }
    }
    timeout; /* nothing happens any more */
    assert(lease[0] == NONE && lease[1] == NONE && call[0] == NONE && call[1] == NONE);
    exact()
}
