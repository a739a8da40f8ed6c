/* An election, as implemented by coordinator/election.py and services/coordination/mirror.py: somebody leads in the end.
 *
 * One candidate and its mirror of the leader key. Others may take the key while it is free, and lose it, CHANGES times.
 * Each fault costs one of FAULTS: an operator deletes the key; the watch falls behind a compaction and the mirror lists;
 * an answer is lost. A node's entry (services/coordination/registry.py) waits in the same way. `make model` checks this
 * model. docs/design/model.md describes what is left out.
 */

#ifndef FAULTS
#define FAULTS 3
#endif
#ifndef CHANGES
#define CHANGES 4
#endif

#define REVISIONS 16

mtype = { none, pending, answered };

#define FREE  0
#define OURS  1
#define OTHER 2

/* etcd */
byte revision;
byte key = FREE;                /* whose lease the leader key is on */
byte history[REVISIONS];        /* revision -> key */

/* the candidate */
byte seen;                      /* Mirror.revision */
byte item = FREE;               /* Mirror.items */
bool leading;                   /* Election.leading */
bool awake = true;              /* Election._wake, or the campaign is not waiting for it */
mtype answer = none;            /* to the transaction in flight */

byte faults = FAULTS;
byte changes = CHANGES;

hidden byte k;

inline write(value) { revision++; assert(revision < REVISIONS); key = value; history[revision] = value }

inline look(value) { item = value; leading = (value == OURS) }

inline forget() {
    for (k : 1 .. seen) { history[k] = 0 };
    k = 0
}

proctype Candidate() {
end:
    do
    /* Election._campaign: look at the mirror, and write the key or wait. */
    :: d_step { awake && answer == none ->
        awake = false;
        if
        :: item == FREE -> answer = pending; printf("the candidate sends its transaction\n")
        :: else -> printf("the candidate waits: the key is taken (%d)\n", item)
        fi }
    :: d_step { answer == answered ->
        answer = none; printf("the candidate has its answer, and waits for the mirror to show the winner\n") }
    :: d_step { faults > 0 && answer != none ->
        faults--; answer = none; awake = true; printf("the candidate's answer is lost: it looks again after a pause\n") }

    :: d_step { seen < revision ->
        seen++;
        if :: history[seen] != item -> awake = true; look(history[seen]) :: else fi;
        forget();
        printf("the candidate sees revision %d: %d\n", seen, item) }
    :: d_step { faults > 0 && seen < revision ->
        faults--; seen = revision;
#ifdef WAKE_BY_CHANGES_ONLY
        if :: key != item -> awake = true :: else fi;
#else
        awake = true;           /* a mirror calls its subscriber after each listing */
#endif
        look(key); forget();
        printf("the candidate's mirror lists at %d: %d\n", seen, item) }
    od
}

proctype Etcd() {
end:
    do
    :: d_step { answer == pending ->
        if :: key == FREE -> write(OURS) :: else fi;    /* Election: put the key if it is absent */
        answer = answered;
        printf("etcd: the leader key is %d at %d (0: free, 1: the candidate's, 2: another's)\n", key, revision) }
    :: d_step { changes > 0 && key == FREE -> changes--; write(OTHER); printf("another takes the key at %d\n", revision) }
    :: d_step { key == OTHER -> write(FREE); printf("the other's lease ends at %d\n", revision) }
    :: d_step { faults > 0 && key != FREE -> faults--; write(FREE); printf("the operator deletes the key at %d\n", revision) }
    od
}

proctype Auditor() {
    timeout;
    printf("nothing more can happen: the key is %d, the candidate leads: %d\n", key, leading);
    assert(key == OURS && leading);             /* the only candidate leads, and knows it */
end: progress:
    do :: false od
}

init { atomic { run Candidate(); run Etcd(); run Auditor() } }
