/* A gateway's demand in etcd, as implemented by services/coordination/{desired_keys,mirror}.py, for one key.
 *
 * One gateway (gateways do not know each other), one topic, one etcd. As in ownership.pml, every step may take any
 * time, each fault costs one of FAULTS (a lease that expires, a killed gateway, a write without an answer that was
 * carried out, is carried out late, or never, a watch that broke and lists again, an operator's delete), and clients
 * come and go CHANGES times. Where nothing more can happen, the key must be as the gateway desires it. model/ownership.pml
 * continues from there. docs/design/model.md lists what is left out. `make model` checks this model.
 */

#ifndef FAULTS
#define FAULTS 3
#endif
#ifndef CHANGES
#define CHANGES 4
#endif

#define REVISIONS 24

mtype = { none, pending, done };

/* etcd. A value is a number, because demand has another "since" each time that it comes; 0: no key. */
byte revision;
byte key;
byte history[REVISIONS];        /* revision -> value */
bool live = true;               /* the lease */

/* the gateway */
bool crashed;
byte wanted;                    /* DesiredKeys.wanted */
byte since;                     /* the last value that was used */
bool unsettled;                 /* DesiredKeys._unsettled */
bool doubted;                   /* ShownKeys._doubted */
byte written;                   /* ShownKeys._written: the revision, 0: not there */
byte written_value;
bool synced;                    /* the mirror has listed under this lease */
byte seen_up_to;                      /* Mirror.revision */
byte item;                      /* Mirror.items */
mtype answer = none;            /* to the write in flight */
byte value;                     /* of the write in flight */
byte answer_revision;
mtype late = none;              /* pending: etcd may still carry out a write that the gateway has given up */
byte late_value;

byte faults = FAULTS;
byte changes = CHANGES;

hidden byte i;

inline write(value_) {
    if
    :: value_ != key || value_ != 0 -> revision++; key = value_; history[revision] = key
    :: else                             /* a delete of an absent key is no event */
    fi;
    assert(revision < REVISIONS)
}

inline lease_ends() {
    live = false;
    if :: late_value != 0 -> late = none; late_value = 0 :: else fi;       /* it would be refused */
    write(0)
}

inline forget() {
    for (i : 1 .. seen_up_to) { history[i] = 0 };
    i = 0
}

inline no_write() { answer = none; value = 0; answer_revision = 0 }

inline give_up() {
    if :: answer == pending && late == none && (live || value == 0) -> late = pending; late_value = value :: else fi;
    no_write()
}

inline start_over() {
    doubted = false; written = 0; written_value = 0; synced = false; seen_up_to = 0; item = 0; unsettled = (wanted != 0)
}

/* ShownKeys.changed, where the mirror's item was `i` before. */
inline changed(revision_) {
    if
    :: revision_ >= written ->
        if :: written != 0 -> i = written_value :: else fi;
        written = 0; written_value = 0;
        if :: item != i -> unsettled = true :: else fi
    :: else
    fi;
    i = 0
}

inline list() {
    i = item; item = key; seen_up_to = revision; synced = true;
    if :: item != i -> changed(revision) :: else i = 0 fi;
#ifndef LIST_DIFFERENCES_ONLY
    /* A key that was written and is gone again is in neither listing. The same holds where the answer arrives after
     * the listing. */
    if :: written != 0 && written <= seen_up_to -> unsettled = true :: else fi;
#endif
    forget()
}

/* ShownKeys._value */
inline look() {
    if :: written <= seen_up_to -> written = 0; written_value = 0 :: else fi;
    i = (written != 0 -> written_value : item)
}

proctype A_gateway() {
end:
    do
    :: d_step { changes > 0 && !crashed ->
        changes--;
        if :: wanted == 0 -> since++; wanted = since :: else -> wanted = 0 fi;
        unsettled = true;
        printf("the gateway desires %d (0: no key)\n", wanted) }

    :: d_step { live && !crashed && unsettled && answer == none ->
        unsettled = false;
        look();
        if
        :: doubted || i != wanted -> value = wanted; answer = pending; printf("the gateway writes %d\n", value)
        :: else
        fi;
        i = 0 }
    :: d_step { answer == done ->
        doubted = false; written = answer_revision; written_value = value; no_write();
#ifndef LIST_DIFFERENCES_ONLY
        if :: written <= seen_up_to -> unsettled = true :: else fi;
#endif
        look(); i = 0;
        printf("the gateway has its answer\n") }
    :: d_step { faults > 0 && answer != none ->
        faults--; give_up(); doubted = true; unsettled = true;
        printf("the gateway stops waiting for its answer: the request is late (%d: pending)\n", late) }
    :: d_step { faults > 0 && answer == pending ->
        faults--; no_write(); doubted = true; unsettled = true;
        printf("the gateway stops waiting for its answer: the request is lost\n") }

    :: d_step { live && !crashed && !synced -> list(); printf("the gateway lists at %d: %d\n", seen_up_to, item) }
    :: d_step { faults > 0 && live && synced && seen_up_to < revision ->
        faults--; list();
        printf("the gateway has lost its watch and lists at %d: %d\n", seen_up_to, item) }
    :: d_step { live && synced && seen_up_to < revision ->
        i = item; item = history[seen_up_to + 1];
        if :: i != item -> changed(seen_up_to + 1) :: else fi;
        seen_up_to++; forget();
        printf("the gateway sees revision %d: %d\n", seen_up_to, item) }

    :: d_step { !live && !crashed ->
        give_up(); start_over(); live = true;
        printf("the gateway learns that its lease is gone, and gets a new one\n") }
    :: d_step { faults > 0 && live && !crashed ->
        faults--; give_up(); wanted = 0; start_over(); crashed = true;
        printf("the gateway is killed\n") }
    :: d_step { !live && crashed ->
        crashed = false; live = true;
        printf("the gateway is restarted\n") }
    od
}

proctype Etcd() {
end:
    do
    :: d_step { answer == pending ->
        if
        :: value != 0 && !live -> no_write()    /* refused: the lease is gone */
        :: else -> write(value); answer_revision = revision; answer = done
        fi;
        printf("etcd: %d at revision %d\n", key, revision) }
    :: d_step { late == pending ->
        write(late_value); late = none; late_value = 0;
        printf("etcd, late: %d at revision %d\n", key, revision) }
    :: d_step { faults > 0 && live && !crashed -> faults--; lease_ends(); printf("the lease expires\n") }
    :: d_step { live && crashed -> lease_ends(); printf("the lease of the dead gateway expires\n") }
    :: d_step { faults > 0 && key != 0 -> faults--; write(0); printf("the operator deletes the key\n") }
    od
}

proctype Auditor() {
    timeout;
    printf("nothing more can happen: wanted %d, stored %d\n", wanted, key);
    assert(key == wanted);      /* etcd shows the gateway's demand */
end: progress:
    do :: false od
}

init { atomic { run A_gateway(); run Etcd(); run Auditor() } }
