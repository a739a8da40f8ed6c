/* Keys that share a transaction, as written by services/coordination/{desired_keys,backlog}.py: what a refusal holds back.
 *
 * One process, two keys, one etcd. Clients come and go CHANGES times. etcd may run into its space quota and be disarmed
 * (each costs one of FAULTS): at its quota it refuses every transaction, also one of deletes alone, and takes a plain
 * DeleteRange. It may reject key 0 for ever for what it is (too large, not permitted), and with it the transaction that
 * the key is in. What is lost, late or overtaken is the subject of demand.pml. `make model` checks this model.
 * docs/design/model.md describes what is left out.
 */

#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef CHANGES
#define CHANGES 5
#endif

#define KEYS 2

mtype = { idle, sent, taken, refused_full, refused_key };

/* etcd */
bool stored[KEYS];
bool at_quota;                  /* at its space quota */
bool bad;                       /* key 0 can never be put */

/* the process */
bool wanted[KEYS];              /* DesiredKeys.wanted */
bool backlog[KEYS];             /* Backlog: to be looked at now */
bool held[KEYS];                /* Backlog: put off, because etcd was full */
bool aside[KEYS];               /* Backlog: set aside, until it changes */
bool shown[KEYS];               /* ShownKeys: what etcd is known to hold */
bool batch[KEYS];               /* keys of the attempt that is under way */
bool value[KEYS];               /* their values; false deletes */
bool part[KEYS];                /* keys of the request in flight */
bool plain;                     /* DesiredKeys._delete_one_by_one: requests are DeleteRange and no transactions */
mtype answer = idle;

byte faults = FAULTS;
byte changes = CHANGES;

hidden byte k;

#define ATTEMPTING (batch[0] || batch[1])
#define PART_OF(k) (part[k] -> value[k] : 2)
#define REJECTED   (part[0] && value[0] && bad)

inline clear_part() { part[0] = false; part[1] = false; answer = idle; if :: ATTEMPTING -> skip :: else -> plain = false fi }

inline finish(key) { batch[key] = false; value[key] = false }

proctype A_process() {
    byte c;
end:
    do
    :: d_step { changes > 0 -> changes--; c = 0; wanted[0] = !wanted[0]; aside[0] = false; backlog[0] = true;
        printf("the process desires key 0: %d\n", wanted[0]) }
    :: d_step { changes > 0 -> changes--; c = 0; wanted[1] = !wanted[1]; aside[1] = false; backlog[1] = true;
        printf("the process desires key 1: %d\n", wanted[1]) }

    :: d_step { !ATTEMPTING && (backlog[0] || backlog[1]) ->
        for (k : 0 .. 1) {
            if
            :: backlog[k] && shown[k] != wanted[k] -> batch[k] = true; part[k] = true; value[k] = wanted[k]
            :: else
            fi;
            if :: backlog[k] -> backlog[k] = false; held[k] = false :: else fi
        };
        k = 0;
        if :: ATTEMPTING -> answer = sent :: else fi;
        printf("the process writes in one transaction: key 0 %d, key 1 %d (2: not in it)\n", PART_OF(0), PART_OF(1)) }

    /* A part of an attempt that is divided: each key by itself. */
    :: d_step { ATTEMPTING && answer == idle ->
        c = (batch[0] -> 0 : 1);
        part[c] = true; answer = sent;
        printf("the process writes key %d by itself: %d\n", c, value[c]); c = 0 }

    :: d_step { answer == taken ->
        for (k : 0 .. 1) { if :: part[k] -> shown[k] = value[k]; finish(k) :: else fi };
        k = 0; clear_part();
        printf("the process has its answer: done\n") }

    :: d_step { answer == refused_full ->
#ifdef HELD_TOGETHER
        for (k : 0 .. 1) { if :: part[k] -> held[k] = true; finish(k) :: else fi };
#else
        /* The puts are held, the deletes go on one by one. */
#ifndef DELETES_IN_TRANSACTIONS
        plain = true;
#endif
        for (k : 0 .. 1) { if :: part[k] && value[k] -> held[k] = true; finish(k) :: else fi };
#endif
        k = 0; clear_part();
        printf("the process has its answer: etcd is at its quota\n") }

    :: d_step { answer == refused_key ->
#ifdef ASIDE_TOGETHER
        for (k : 0 .. 1) { if :: part[k] -> aside[k] = true; finish(k) :: else fi };
#else
        if
        :: part[0] && part[1]           /* divide: each key by itself */
        :: else -> aside[0] = true; finish(0)
        fi;
#endif
        k = 0; clear_part();
        printf("the process has its answer: etcd rejects a key\n") }

    /* The pause is over. While etcd is at its quota it would be refused again and change nothing. */
    :: d_step { !at_quota && (held[0] || held[1]) ->
        for (k : 0 .. 1) { if :: held[k] -> held[k] = false; backlog[k] = true :: else fi };
        k = 0;
        printf("the process tries again what it held back\n") }
    od
}

proctype Etcd() {
end:
    do
    :: d_step { answer == sent ->
        if
        :: at_quota && !plain -> answer = refused_full
        :: !at_quota && REJECTED -> answer = refused_key
        :: else ->
            for (k : 0 .. 1) { if :: part[k] -> stored[k] = value[k] :: else fi };
            k = 0; answer = taken
        fi;
        printf("etcd holds key 0 %d, key 1 %d\n", stored[0], stored[1]) }
    :: d_step { faults > 0 && !at_quota -> faults--; at_quota = true; printf("etcd is at its space quota\n") }
    :: d_step { faults > 0 && at_quota -> faults--; at_quota = false; printf("etcd is disarmed\n") }
    od
}

proctype Auditor() {
    timeout;
    printf("nothing more can happen: desired %d %d, stored %d %d\n", wanted[0], wanted[1], stored[0], stored[1]);
    assert(wanted[0] || !stored[0]);                    /* a key that is not desired goes, whatever was refused */
    assert(wanted[1] || !stored[1]);                    /* a key that is not desired goes, whatever was refused */
    assert(at_quota || bad || !wanted[0] || stored[0]); /* a key that is desired and taken is there */
    assert(at_quota || !wanted[1] || stored[1]);        /* a key that is desired and taken is there */
end: progress:
    do :: false od
}

init {
    if
    :: bad = false
    :: bad = true -> printf("etcd rejects each put of key 0\n")
    fi;
    atomic { run A_process(); run Etcd(); run Auditor() }
}
