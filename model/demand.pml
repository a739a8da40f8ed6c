/* Etcd shows the demand of a gateway: a model of services/coordination/{desired_keys,mirror}.py, for one key.
 *
 * One gateway (gateways know nothing of each other), one topic, one etcd. As in ownership.pml, every step may take any
 * time. Each fault costs one of FAULTS: a lease that expires; a killed gateway; a write without an answer, which was
 * carried out, is carried out late, or never; a watch that broke and lists again; an operator's delete. Clients come
 * and go CHANGES times. Where nothing more can happen, the key must be as the gateway wants it. model/ownership.pml
 * starts from that result. docs/design/model.md describes what is left out, and why. `make model` checks this model.
 */

#ifndef FAULTS
#define FAULTS 3
#endif
#ifndef CHANGES
#define CHANGES 4
#endif

#define REVISIONS 24

mtype = { none, pending, done };

/* etcd. A value is a number, because each new demand has another "since"; 0: there is no key. */
byte revision;
byte key;
byte history[REVISIONS];        /* revision -> value */
bool live = true;               /* the lease */

/* the gateway */
bool crashed;
byte wanted;                    /* DesiredKeys.wanted */
byte since;                     /* the last value used */
bool unsettled;                 /* DesiredKeys._unsettled */
bool doubted;                   /* ShownKeys._doubted */
byte written;                   /* ShownKeys._written: the revision, 0: the key is not in it */
byte written_value;
bool synced;                    /* the mirror has listed under this lease */
byte delivered;                 /* Mirror.revision */
byte item;                      /* Mirror.items */
mtype answer = none;            /* the answer to the write in flight */
byte value;                     /* the value of the write in flight */
byte answer_revision;
mtype late = none;              /* pending: a write that the gateway has given up on may still be carried out */
byte late_value;

byte faults = FAULTS;
byte changes = CHANGES;

hidden byte i;

inline write(value_) {
    if
    :: value_ != key || value_ != 0 -> revision++; key = value_; history[revision] = key
    :: else                             /* deleting a key that is absent is no event */
    fi;
    assert(revision < REVISIONS)
}

inline lease_ends() {
    live = false;
    if :: late_value != 0 -> late = none; late_value = 0 :: else fi;       /* etcd could only refuse it */
    write(0)
}

inline forget() {
    for (i : 1 .. delivered) { history[i] = 0 };
    i = 0
}

inline no_write() { answer = none; value = 0; answer_revision = 0 }

inline give_up() {
    if :: answer == pending && late == none && (live || value == 0) -> late = pending; late_value = value :: else fi;
    no_write()
}

inline start_over() {
    doubted = false; written = 0; written_value = 0; synced = false; delivered = 0; item = 0; unsettled = (wanted != 0)
}

/* ShownKeys.changed; `i` is the mirror's previous item. */
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
    i = item; item = key; delivered = revision; synced = true;
    if :: item != i -> changed(revision) :: else i = 0 fi;
#ifndef LIST_REPORTS_CHANGES_ONLY
    /* A key that was written and deleted between two lists is in neither of them, so that the mirror reports no change.
     * The same holds when the answer arrives after the list. */
    if :: written != 0 && written <= delivered -> unsettled = true :: else fi;
#endif
    forget()
}

/* ShownKeys._value */
inline look() {
    if :: written <= delivered -> written = 0; written_value = 0 :: else fi;
    i = (written != 0 -> written_value : item)
}

proctype A_gateway() {
end:
    do
    :: d_step { changes > 0 && !crashed ->
        changes--;
        if :: wanted == 0 -> since++; wanted = since :: else -> wanted = 0 fi;
        unsettled = true;
        printf("the gateway wants %d (0: nothing)\n", wanted) }

    :: d_step { live && !crashed && unsettled && answer == none ->
        unsettled = false;
        look();
        if
        :: doubted || i != wanted -> value = wanted; answer = pending; printf("the gateway asks for %d\n", value)
        :: else
        fi;
        i = 0 }
    :: d_step { answer == done ->
        doubted = false; written = answer_revision; written_value = value; no_write();
#ifndef LIST_REPORTS_CHANGES_ONLY
        if :: written <= delivered -> unsettled = true :: else fi;
#endif
        look(); i = 0;
        printf("the gateway has its answer\n") }
    :: d_step { faults > 0 && answer != none ->
        faults--; give_up(); doubted = true; unsettled = true;
        printf("the gateway gives up waiting for its answer: the request is late (%d: pending)\n", late) }
    :: d_step { faults > 0 && answer == pending ->
        faults--; no_write(); doubted = true; unsettled = true;
        printf("the gateway gives up waiting for its answer: the request is lost\n") }

    :: d_step { live && !crashed && !synced -> list(); printf("the gateway lists at %d: %d\n", delivered, item) }
    :: d_step { faults > 0 && live && synced && delivered < revision ->
        faults--; list();
        printf("the gateway has lost its watch and lists at %d: %d\n", delivered, item) }
    :: d_step { live && synced && delivered < revision ->
        i = item; item = history[delivered + 1];
        if :: i != item -> changed(delivered + 1) :: else fi;
        delivered++; forget();
        printf("the gateway sees revision %d: %d\n", delivered, item) }

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
