/* A bounded queue of items over recycled segments, its consumers, producers and waiters.
 *
 * An item is waiting, in flight (handed to one consumer, until it acknowledges or a deadline
 * passes), done or parked (handed out too often). A consumer holds a lease of what it was handed,
 * also after the deadline. A producer fills a free segment of its ring, and puts it; the segment is
 * free again when nothing refers to it: no item that is not done, no call, no lease, no object.
 *
 * Clients are killed at any time: their mappings are gone at once, and some time later the daemon
 * notices, and ends the session. What the daemon does for them meanwhile goes on.
 */
#define CONSUMERS 2
#define DELIVERIES 2 /* then an item is parked */
#ifdef MUTANT_WAKE_FIRST_ONLY
#define VARIANT_ROOM
#endif
#if defined(VARIANT_CUT) || defined(MUTANT_CUT_RECYCLES)
#define CUTS 1 /* sessions of consumers that end although the client lives, and reads on */
#endif
#ifdef VARIANT_WAITERS
#define PRODUCERS 2
#define ITEMS 1      /* that each producer puts */
#define RING 1       /* segments of each producer */
#define MAX_ITEMS 1  /* that wait */
#define CRASHES 2
#define CANCELS 1    /* calls that are given up while they wait */
#define OBJECTS 0    /* tensors that consumers keep when they release the item */
#define DEADLINES 0  /* whether they pass */
#else
#ifdef VARIANT_ROOM
#define PRODUCERS 2
#define ITEMS 1
#define RING 1
#define MAX_ITEMS 2
#define CRASHES 1
#define CANCELS 1
#define OBJECTS 0
#define DEADLINES 1
#else
#ifdef VARIANT_OBJECTS
#define PRODUCERS 1
#define ITEMS 2
#define RING 1
#define MAX_ITEMS 1
#define CRASHES 2
#define CANCELS 0
#define OBJECTS 2
#define DEADLINES 1
#else
#define PRODUCERS 1
#define ITEMS 3
#define RING 2
#define MAX_ITEMS 1
#ifdef CUTS
#define CRASHES 0
#else
#define CRASHES 2
#endif
#define CANCELS 0
#define OBJECTS 0
#define DEADLINES 1
#endif
#endif
#endif
#define ALL_ITEMS (PRODUCERS * ITEMS)
#define SEGMENTS (PRODUCERS * RING)
#define CLIENTS (CONSUMERS + PRODUCERS) /* consumers first */
#define NONE 15

mtype = { NOT_YET, WAITING, FLIGHT, DONE, PARKED };

/* Items, in the order in which they were put. */
byte items;
mtype state[ALL_ITEMS] = NOT_YET;
byte segment[ALL_ITEMS], value[ALL_ITEMS], deliveries[ALL_ITEMS];
byte holder[ALL_ITEMS] = NONE;  /* in flight: the consumer whose delivery counts */
chan waiting = [ALL_ITEMS] of { byte };

/* Consumers: the item in a call that is being answered, of the item lease, of a kept object. */
byte call[CONSUMERS] = NONE, lease[CONSUMERS] = NONE, object[CONSUMERS] = NONE;
bool late[CONSUMERS];           /* the deadline of what it was handed has passed */

/* Producers: the segment it fills (an object of its session), and of its put. */
byte own[PRODUCERS] = NONE, put_call[PRODUCERS] = NONE;
bool wants_segment[PRODUCERS];  /* waits for a free one */

byte refs[SEGMENTS], bytes[SEGMENTS]; /* bytes: how often it was written, for what is in it */
bool freed[SEGMENTS];
#ifdef CUTS
byte cuts = CUTS;
byte reads_on[CONSUMERS] = NONE; /* the item that a client reads whose session has ended */
bool retired[SEGMENTS];          /* instead of being free, it is replaced by new memory */
#endif

bool alive[CLIENTS] = true, ended[CLIENTS];
byte crashes = CRASHES, cancels = CANCELS, objects = OBJECTS;

/* Waiters leave the list when they are woken, and look for themselves. First come, first woken. */
chan getters = [CONSUMERS] of { byte };
chan putters = [PRODUCERS] of { byte };
bool woken[CLIENTS];

byte i, k, n, who; /* within a step; 0 between any two */

#define PENDING(item) (state[item] == WAITING || state[item] == FLIGHT || state[item] == PARKED)
#define OWNER(s) (CONSUMERS + (s) / RING)

/* What holds between any two steps. */
inline exact()
{
    d_step {
        for (k : 0 .. SEGMENTS - 1) {
            n = 0;
            for (i : 0 .. ALL_ITEMS - 1) {
                n = n + (PENDING(i) && segment[i] == k);
            }
            for (i : 0 .. CONSUMERS - 1) {
                n = n + (call[i] != NONE && segment[call[i]] == k);
                n = n + (lease[i] != NONE && segment[lease[i]] == k);
                n = n + (object[i] != NONE && segment[object[i]] == k);
            }
            n = n + (own[k / RING] == k) + (put_call[k / RING] == k);
            assert(refs[k] == n);
            assert(freed[k] == (ended[OWNER(k)] && n == 0));
        }
        /* Nothing is done or parked and waits; nobody waits for what is there already. */
        n = 0;
        for (i : 0 .. ALL_ITEMS - 1) {
            n = n + (state[i] == WAITING);
        }
        assert(n == len(waiting));
        /* What goes back finds room, even if others were put meanwhile: then too many wait. */
        for (i : 0 .. ALL_ITEMS - 1) {
            n = n + (state[i] == FLIGHT);
        }
        assert(n <= MAX_ITEMS + CONSUMERS);
        n = 0;
        for (i : 0 .. CONSUMERS - 1) {
            n = n + woken[i];
        }
        assert(empty(getters) || n >= len(waiting));
        n = len(waiting);
        for (i : CONSUMERS .. CLIENTS - 1) {
            n = n + woken[i];
        }
        assert(empty(putters) || n >= MAX_ITEMS);
        for (i : 0 .. PRODUCERS - 1) {
            for (k : i * RING .. i * RING + RING - 1) {
                assert(!wants_segment[i] || refs[k] > 0);
            }
        }
        i = 0; k = 0; n = 0; who = 0
    }
}

inline wake_getter()
{
    if
    :: getters ? who -> woken[who] = true
    :: empty(getters)
    fi
}

inline wake_putter()
{
    if
    :: putters ? who -> woken[who] = true
    :: empty(putters)
    fi
}

inline unref(s)
{
    assert(refs[s] > 0);
    refs[s]--;
    if
    :: refs[s] > 0
    :: refs[s] == 0 && ended[OWNER(s)] ->
#ifndef MUTANT_RING_LEAKS /* back to a ring that is not there any more */
       freed[s] = true
#endif
    :: refs[s] == 0 && !ended[OWNER(s)] ->
#ifdef CUTS
       for (n : 0 .. CONSUMERS - 1) {
           if
           :: retired[s] && reads_on[n] != NONE && segment[reads_on[n]] == s -> reads_on[n] = NONE
           :: else
           fi
       }
       n = 0;
       retired[s] = false;
#endif
#ifndef MUTANT_SEGMENT_NO_WAKE
       wants_segment[(s) / RING] = false
#endif
    fi
}

/* The consumer's delivery of the item is over, without an acknowledgement that counts. */
inline give_back(item, c)
{
    if
#ifdef MUTANT_RETURN_TWICE /* whether it has gone back already or not */
    :: state[item] != DONE ->
#else
    :: state[item] == FLIGHT && holder[item] == c ->
#endif
       holder[item] = NONE;
       if
       :: deliveries[item] >= DELIVERIES -> state[item] = PARKED; deliveries[item] = 0
#ifdef MUTANT_PARKED_FREED
          ;
          unref(segment[item])
#endif
       :: else ->
          state[item] = WAITING;
#ifdef MUTANT_FRONT_BLIND /* to the front, whoever is there already */
          n = len(waiting);
          waiting ! item;
          for (i : 1 .. n) {
              waiting ? k;
              waiting ! k;
          }
          i = 0; k = 0; n = 0;
#else
          waiting !! item; /* where its number belongs */
#endif
#ifndef MUTANT_RETURN_NO_WAKE
          wake_getter()
#endif
       fi
    :: else
    fi
}

inline read(item)
{
    assert(!freed[segment[item]] && bytes[segment[item]] == value[item])
}

inline release(c)
{
    give_back(lease[c], c);
    late[c] = false;
    k = lease[c];
    lease[c] = NONE;
    unref(segment[k]);
    k = 0
}

inline expire(item)
{
    late[c] = true;
    give_back(item, c);
#ifdef MUTANT_LEASE_EXPIRES /* the memory goes with the deadline, the consumer reads on */
    if
    :: lease[c] != NONE ->
       k = lease[c];
       lease[c] = NONE;
       unref(segment[k]);
       lease[c] = k
    :: else
    fi;
#endif
    exact()
}

proctype consumer(byte c)
{
    bool acked;
ask:
    atomic { /* in the daemon, under the queue's lock */
        woken[c] = false;
        if
        :: nempty(waiting) ->
           waiting ? i;
           assert(state[i] == WAITING);
           for (k : 0 .. i) {
               assert(k == i || state[k] != WAITING); /* first in, first out */
           }
           for (k : 0 .. CONSUMERS - 1) { /* never two at a time, unless a deadline passed */
               assert((call[k] != i && lease[k] != i) || late[k]);
           }
           state[i] = FLIGHT;
           holder[i] = c;
           deliveries[i]++;
           assert(deliveries[i] <= DELIVERIES);
           call[c] = i;
           late[c] = false;
#ifdef MUTANT_RECYCLE_TAKEN /* the item's reference goes when it is taken */
           unref(segment[i]);
#endif
           refs[segment[i]]++;
           wake_putter();
           exact();
           goto taken
        :: empty(waiting) -> getters ! c
        fi
    }
end:
    atomic {
        if
        :: woken[c] && !ended[c] /* looks again */
        :: ended[c] || (cancels > 0 && !ended[c]) -> /* gives up */
           if
           :: !woken[c] -> getters ?? eval(c)
           :: else ->
              woken[c] = false;
#ifndef MUTANT_WAKE_NOT_PASSED
              wake_getter() /* somebody else is to look instead */
#endif
           fi
           if
           :: ended[c] -> goto gone
           :: else -> cancels--
           fi
        fi
    }
    goto ask;
taken:
    atomic { /* under the session's lock: it may have ended meanwhile */
        if
        :: ended[c] ->
#ifndef MUTANT_CALL_OF_DEAD /* nobody gives it back */
           give_back(call[c], c);
#endif
           late[c] = false;
           i = call[c];
           call[c] = NONE;
           unref(segment[i]);
           exact();
           goto gone
        :: else ->
           lease[c] = call[c];
           call[c] = NONE
        fi
    }
    acked = false;
    do
    :: atomic { alive[c] && !ended[c] && !acked ->
           read(lease[c]);
           acked = true;
           i = lease[c];
           if
#ifdef MUTANT_ACK_LATE /* it went back */
           :: state[i] != DONE ->
#else
#ifdef MUTANT_ACK_BY_ITEM /* it was delivered once more, and this is not the delivery */
           :: state[i] == FLIGHT ->
#else
           :: state[i] == FLIGHT && holder[i] == c ->
#endif
#endif
              assert(!late[c]);
              state[i] = DONE;
              holder[i] = NONE;
              deliveries[i] = 0;
              unref(segment[i]);
#ifdef MUTANT_RECYCLE_ACKED /* although the consumer still reads */
              lease[c] = NONE;
              unref(segment[i]);
              lease[c] = i;
#endif
           :: else -> assert(late[c]) /* refused */
           fi
           exact() }
    :: d_step { alive[c] && !ended[c] && objects > 0 && object[c] == NONE ->
           objects--;
           object[c] = lease[c];
           refs[segment[lease[c]]]++ }
    :: atomic { alive[c] && !ended[c] -> read(lease[c]); release(c); exact() }
       goto ask
    :: ended[c] -> break
    od;
gone:
    skip
}

proctype producer(byte p)
{
    byte made, s;
    do
    :: made < ITEMS ->
again:
       atomic {
           for (k : p * RING .. p * RING + RING - 1) {
               if
               :: refs[k] == 0 && !ended[CONSUMERS + p] && own[p] == NONE -> own[p] = k
               :: else
               fi
           }
           k = 0;
           if
           :: ended[CONSUMERS + p] -> goto gone
           :: own[p] != NONE -> s = own[p]; refs[s] = 1
           :: else -> wants_segment[p] = true
           fi
       }
end_segment:
       atomic { !wants_segment[p] || ended[CONSUMERS + p] -> wants_segment[p] = false }
       if
       :: own[p] == NONE -> goto again
       :: else
       fi;
       atomic {
           if
           :: alive[CONSUMERS + p] -> /* fills it: nobody may be looking */
              for (i : 0 .. ALL_ITEMS - 1) {
                  assert(segment[i] != s || !PENDING(i));
              }
              for (i : 0 .. CONSUMERS - 1) {
                  assert(call[i] == NONE || segment[call[i]] != s);
                  assert(lease[i] == NONE || segment[lease[i]] != s);
                  assert(object[i] == NONE || segment[object[i]] != s);
#ifdef CUTS
                  assert(reads_on[i] == NONE || segment[reads_on[i]] != s);
#endif
              }
              i = 0;
              bytes[s]++
           :: else
           fi
       }
       atomic {
           if
           :: own[p] == s && alive[CONSUMERS + p] -> refs[s]++; put_call[p] = s
           :: else -> goto gone
           fi
       }
put:
       atomic {
           woken[CONSUMERS + p] = false;
           if
#ifdef MUTANT_PUT_WHEN_FULL
           :: true ->
#else
           :: len(waiting) < MAX_ITEMS ->
#endif
#ifdef MUTANT_WAKE_FIRST_ONLY /* they have been woken, when there was something already */
              if
              :: empty(waiting) -> waiting ! items; wake_getter()
              :: nempty(waiting) -> waiting ! items
              fi;
#else
              waiting ! items;
              wake_getter();
#endif
              state[items] = WAITING;
              segment[items] = s;
              value[items] = bytes[s];
              items++;
              put_call[p] = NONE; /* the call's reference becomes the item's */
              assert(len(waiting) <= MAX_ITEMS);
              exact();
              goto done
           :: else -> putters ! CONSUMERS + p
           fi
       }
end_full:
       atomic {
           if
           :: woken[CONSUMERS + p] && !ended[CONSUMERS + p] /* looks again */
           :: ended[CONSUMERS + p] || (cancels > 0 && !ended[CONSUMERS + p]) ->
              put_call[p] = NONE;
              unref(s);
              if
              :: !woken[CONSUMERS + p] -> putters ?? eval(CONSUMERS + p)
              :: else ->
                 woken[CONSUMERS + p] = false;
#ifndef MUTANT_WAKE_NOT_PASSED
                 wake_putter()
#endif
              fi
              if
              :: ended[CONSUMERS + p] -> goto gone
              :: else -> cancels--; goto done
              fi
           fi
       }
       goto put;
done:
       made++;
       atomic { /* releases the object */
           if
           :: own[p] == s && alive[CONSUMERS + p] -> own[p] = NONE; unref(s); exact()
           :: else -> goto gone /* killed: the session's end releases it */
           fi
       }
       s = 0
    :: made == ITEMS -> break
    od;
gone:
    skip
}

/* A client is killed, and later its session is ended. */
proctype death(byte client)
{
end:
#ifdef CUTS
    if
    :: atomic { cuts > 0 && client < CONSUMERS -> cuts-- }
    :: atomic { crashes > 0 -> crashes--; alive[client] = false }
    fi;
#else
    atomic { crashes > 0 -> crashes--; alive[client] = false }
#endif
    atomic {
        ended[client] = true;
        if
        :: client < CONSUMERS ->
           if
           :: lease[client] != NONE ->
#ifdef CUTS
              if
              :: alive[client] -> reads_on[client] = lease[client]
              :: else
              fi;
#ifndef MUTANT_CUT_RECYCLES /* as if nobody could look any more */
              retired[segment[lease[client]]] = true;
#endif
#endif
#ifdef MUTANT_LEASE_LEAKS
              give_back(lease[client], client)
#else
#ifdef MUTANT_ITEM_STAYS /* nobody acknowledges it ever, nobody else gets it */
              i = lease[client];
              lease[client] = NONE;
              unref(segment[i]);
              i = 0
#else
              release(client)
#endif
#endif
           :: else
           fi
           if
           :: object[client] != NONE ->
              i = object[client];
              object[client] = NONE;
              unref(segment[i]);
              i = 0
           :: else
           fi
           for (i : 0 .. ALL_ITEMS - 1) {
               assert(holder[i] != client || call[client] == i);
           }
           assert(lease[client] == NONE)
        :: else ->
           i = own[client - CONSUMERS];
           own[client - CONSUMERS] = NONE;
           if
           :: i != NONE -> unref(i)
           :: else
           fi
           for (i : (client - CONSUMERS) * RING .. (client - CONSUMERS) * RING + RING - 1) {
#ifdef MUTANT_RING_FREED /* all of it */
               freed[i] = true;
#else
               freed[i] = refs[i] == 0;
#endif
           }
           wants_segment[client - CONSUMERS] = false
        fi
        exact()
    }
}

/* The deadline of what the consumer was handed last passes; a kept object is let go. */
proctype time(byte c)
{
end:
    do
    :: atomic { DEADLINES && call[c] != NONE && holder[call[c]] == c -> expire(call[c]) }
    :: atomic { DEADLINES && lease[c] != NONE && holder[lease[c]] == c -> expire(lease[c]) }
    :: atomic { alive[c] && object[c] != NONE ->
           read(object[c]);
           i = object[c];
           object[c] = NONE;
           unref(segment[i]);
           exact() }
    od
}

init
{
    byte c;
    atomic {
        for (c : 0 .. CLIENTS - 1) {
            if
            :: c < CONSUMERS -> run consumer(c); run time(c)
            :: else -> run producer(c - CONSUMERS)
            fi;
            run death(c)
        }
        c = 0
    }
    /* Nothing happens any more. It comes to that always: nothing goes in circles here. */
    timeout;
    d_step {
        exact();
        who = 0; /* consumers that are still there */
        for (i : 0 .. CONSUMERS - 1) {
            who = who + !ended[i];
        }
        for (i : 0 .. ALL_ITEMS - 1) { /* nothing is lost: all that was put was dealt with */
            assert(state[i] == NOT_YET || state[i] == DONE || state[i] == PARKED || who == 0);
            assert(state[i] != FLIGHT && (state[i] == NOT_YET) == (i >= items));
        }
        /* Only what is parked keeps a producer from a segment; once its whole ring is, for good. */
        for (i : 0 .. PRODUCERS - 1) {
            n = 0;
            for (k : 0 .. ALL_ITEMS - 1) {
                n = n + (state[k] == PARKED && segment[k] / RING == i);
            }
            assert(!wants_segment[i] || n == RING || who == 0);
        }
    }
}
