/* A mirror of two keys, as implemented by services/coordination/{watches,mirror,history}.py: watches that resume, and
 * an etcd that is restored from a snapshot.
 *
 * One process, one etcd. Others write CHANGES times: key 0 (an owner key, whose revision is an epoch), key 1, or both
 * in one transaction. Each fault costs one of FAULTS: the stream of watches breaks, or etcd compacts everything. A
 * snapshot is saved at any moment, and etcd may be restored from it once: revisions go back, the cluster's id stays,
 * and others may write on before the process is back. Each write has a number of its own, so two writes are the same
 * only when the snapshot has both. `make model` checks this model. docs/design/model.md describes what is left out.
 */

#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef CHANGES
#define CHANGES 4
#endif

#define REVISIONS 6             /* more than CHANGES */
#define NONE 255

/* etcd */
byte revision;
byte compacted;
byte id[2];                     /* the write that each key has; 0: no key */
byte epoch;                     /* mod_revision of key 0, 0: no key */
byte event0[REVISIONS];         /* revision -> the write of key 0, NONE: no event */
byte event1[REVISIONS];
byte request_at[REVISIONS];     /* revision -> the request that was carried out, in whichever incarnation */
byte requests;
byte writes;                    /* so many in all incarnations */
bool saved;                     /* a snapshot */
bool restored;
bool unnoticed;                 /* the process has known what is lost, and does not know that it is */
byte saved_revision;
byte saved_id[2];
byte saved_epoch;

/* the process: History */
byte known;                     /* History.revision */
byte witness;                   /* Witness.revision, 0: none */
byte witness_id;                /* the request that was carried out at that revision */

/* the process: Watch and Mirror */
bool open;                      /* a stream is open */
bool listed;                    /* the mirror has listed, and follows */
bool anew;                      /* the next listing is the first of an incarnation */
byte seen;                      /* Watch.next_revision - 1 */
bool fragment;                  /* the first fragment of the next batch has come */
byte item[2];                   /* Mirror.items */

/* the process: subscribers */
byte told[2];                   /* what the poller acts on: the owner, the demand */
byte fence;                     /* the epoch below which the gateway drops frames */

byte faults = FAULTS;
byte changes = CHANGES;

hidden byte k;


/* A process whose witness is compacted has none until its next event or put: it relies on revisions alone. */
#ifdef WITNESS_COMPACTED
#define MAY_RESTORE true
#define MAY_COMPACT true
#else
#ifdef LISTED_PAST_WITNESS      /* A listing may show more than the witness proves: it leaves no witness of its own. */
#define MAY_RESTORE (known == 0 || witness > compacted)
#else
#define MAY_RESTORE (known == 0 || (witness > compacted && witness >= seen))
#endif
#define MAY_COMPACT (!unnoticed)
#endif

inline put(key) { if :: id[key] == 0 -> writes++; id[key] = writes :: else -> id[key] = 0 fi }

inline wrote(first, second) {
    changes--; revision++; requests++; request_at[revision] = requests;
    event0[revision] = (first -> id[0] : NONE);
    event1[revision] = (second -> id[1] : NONE);
    if :: first -> epoch = (id[0] != 0 -> revision : 0) :: else fi
}

inline stream_ends() { open = false; fragment = false }

/* Etcd.on_new_incarnation */
inline begin_anew() {
    stream_ends(); unnoticed = false;
    known = 0; witness = 0; witness_id = 0; listed = false; anew = true; seen = 0;
    told[0] = 0; told[1] = 0;
#ifndef FENCE_STAYS
    fence = 0
#endif
}

inline tell(key, value) {
    item[key] = value; told[key] = value;
}

/* One event of revision r. */
inline apply(key, value, r) {
    assert(listed && value != item[key]);       /* no event is delivered twice */
    tell(key, value);
    if :: key == 0 && value != 0 && r > fence -> fence = r :: else fi
}

inline saw(r) {
    if :: r > witness -> witness = r; witness_id = request_at[r] :: else fi;
    if :: r > known -> known = r :: else fi
}

proctype A_process() {
end:
    do
    /* A stream begins: the witness must be what happened at its revision. */
    :: d_step { !open ->
        open = true;
        printf("the process opens a stream at %d, and its witness is of %d\n", seen, witness);
#ifdef NO_WITNESS
        if :: false -> skip
#else
        if
        :: witness != 0 && (witness > revision || (witness > compacted && request_at[witness] != witness_id)) ->
            begin_anew(); printf("the process finds that etcd has lost its data\n")
        :: witness != 0 && witness <= revision && witness <= compacted -> witness = 0; witness_id = 0
#endif
        :: else
        fi;
        if
        :: open && listed && seen < compacted ->
            listed = false; printf("the process hears that its revision is compacted\n")
#ifdef RESUME_NOW
        :: open && listed && seen < revision -> seen = revision
#endif
#ifdef RESUME_FROM_LAST
        :: open && listed && seen > compacted -> seen--
#endif
        :: else
        fi }

    /* A put of its own, on another connection than the stream's. It becomes the witness, unless the next stream has to
     * look for the old one first (History.wrote). */
    :: d_step { changes > 0 && known <= revision ->
        put(1); wrote(false, true); known = revision;
#ifdef WRITE_BEFORE_CHECK
        saw(revision);
#else
        if :: open || witness == 0 -> saw(revision) :: else fi;
#endif
        printf("the process writes key 1: %d at %d\n", id[1], revision) }

    /* Any linearizable answer: its revision must not be lower than a known one. */
    :: d_step { known > revision -> begin_anew(); printf("the process hears a lower revision: etcd has lost its data\n") }

    :: d_step { open && !listed ->
        k = 0;
        do
        :: k < 2 ->
            if
#ifdef TELL_DIFFERENCES_ONLY
            :: item[k] != id[k] -> tell(k, id[k])
#else
            :: item[k] != id[k] || anew -> tell(k, id[k])
#endif
            :: else
            fi;
            k++
        :: else -> break
        od;
        k = 0;
        listed = true; anew = false; seen = revision;
        if :: revision > known -> known = revision :: else fi;
        if      /* its own entry, which every process writes when it starts */
        :: witness == 0 && revision > compacted -> witness = revision; witness_id = request_at[revision]
        :: else
        fi;
        if :: epoch > fence -> fence = epoch :: else fi;
        printf("the process lists at %d: %d %d\n", revision, item[0], item[1]) }

    :: d_step { open && listed && !fragment && seen < revision && event0[seen + 1] != NONE && event1[seen + 1] != NONE ->
        fragment = true;
        printf("the process receives the first fragment of revision %d\n", seen + 1);
#ifdef ADVANCE_BY_FRAGMENT
        seen++; apply(0, event0[seen], seen)
#endif
        }
    :: d_step { open && listed && seen < revision && (fragment || event0[seen + 1] == NONE || event1[seen + 1] == NONE) ->
#ifdef ADVANCE_BY_FRAGMENT
        if
        :: fragment -> apply(1, event1[seen], seen)
        :: else -> seen++;
            if :: event0[seen] != NONE -> apply(0, event0[seen], seen) :: else -> apply(1, event1[seen], seen) fi
        fi;
#else
        seen++;
        if :: event0[seen] != NONE -> apply(0, event0[seen], seen) :: else fi;
        if :: event1[seen] != NONE -> apply(1, event1[seen], seen) :: else fi;
#endif
        fragment = false; saw(seen);
        printf("the process receives revision %d: %d %d\n", seen, item[0], item[1]) }
#ifdef ADVANCE_BY_HEADER
    :: d_step { open && listed && !fragment && seen < revision ->
        seen = revision; printf("the process receives a message without events of revision %d\n", revision) }
#endif
    od
}

proctype Etcd() {
end:
    do
    :: d_step { changes > 0 -> put(0); wrote(true, false);
        printf("etcd: key 0 is %d at %d\n", id[0], revision) }
    :: d_step { changes > 0 -> put(1); wrote(false, true);
        printf("etcd: key 1 is %d at %d\n", id[1], revision) }
    :: d_step { changes > 0 -> put(0); put(1); wrote(true, true);
        printf("etcd: the keys are %d %d at %d, in one transaction\n", id[0], id[1], revision) }
    :: d_step { faults > 0 && compacted < revision && MAY_COMPACT ->
        faults--; compacted = revision;
        if :: open && listed && seen < compacted -> stream_ends() :: else fi;
        printf("etcd compacts everything below %d\n", revision) }
    :: d_step { faults > 0 && open -> faults--; stream_ends(); printf("the stream breaks\n") }
#ifndef NO_RESTORE
    :: d_step { !saved && !restored && changes > 0 ->
        saved = true; saved_revision = revision; saved_id[0] = id[0]; saved_id[1] = id[1]; saved_epoch = epoch;
        printf("a snapshot is saved at %d\n", revision) }
    :: d_step { saved && !restored && saved_revision < revision && MAY_RESTORE ->
        stream_ends();
        k = saved_revision + 1;
        do :: k <= revision -> event0[k] = 0; event1[k] = 0; request_at[k] = 0; k++ :: else -> break od;
        k = 0;
        revision = saved_revision; id[0] = saved_id[0]; id[1] = saved_id[1]; epoch = saved_epoch;
        if :: compacted > revision -> compacted = revision :: else fi;
        restored = true; unnoticed = (known != 0); saved = false;
        saved_revision = 0; saved_id[0] = 0; saved_id[1] = 0; saved_epoch = 0;
        printf("etcd is killed and restored from the snapshot: revision %d, keys %d %d\n", revision, id[0], id[1]) }
#endif
    od
}

proctype Auditor() {
    timeout;
    printf("nothing more can happen: etcd has %d %d, told %d %d, fence %d\n", id[0], id[1], told[0], told[1], fence);
    assert(told[0] == id[0] && told[1] == id[1]);       /* subscribers know what etcd holds */
    assert(id[0] == 0 || epoch >= fence);               /* the gateway accepts the frames of the present owner */
end: progress:
    do :: false od
}

init { atomic { run A_process(); run Etcd(); run Auditor() } }
