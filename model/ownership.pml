/* The ownership of a topic, as implemented by services/coordination/{claims,mirror}.py, poller/{placement,ownership}.py
 * and the fence of gateway/{hub,topic}.py.
 *
 * Two pollers, two gateways, one topic, one etcd. Everything but etcd is asynchronous: a process takes its next step at
 * any later moment (so every process is also one that was paused and woke up late), a watch delivers its events at any
 * later moment, and a request is carried out and answered at any later moment. Time is not modelled: a wait may end at
 * any moment.
 *
 * Each fault costs one of FAULTS, in any combination and order: a lease that expires under a living process, a process
 * that is killed (for ever, or restarted), a hand-over, a transaction without an answer (carried out, carried out late,
 * or never), a watch that broke and lists again, an operator's delete of the owner key. Demand comes and goes CHANGES
 * times. No run is therefore endless, and where nothing more can happen everything must be settled (`Auditor`): this is
 * liveness. The only assumption of fairness is that what can happen does happen in the end.
 *
 * docs/design/model.md lists what is left out, and why. `make model` checks this model.
 */

#ifndef FAULTS
#define FAULTS 2
#endif
#ifndef CHANGES
#define CHANGES 3
#endif

/* --- etcd: a linearizable store ----------------------------------------------------------------------------------
 * Revisions are counted for each prefix separately: only those of the same prefix are ever compared. */

#define REVISIONS 24

byte revision;                  /* of the last change of the owner key */
byte key_epoch;                 /* the owner key's mod_revision, 0: no key */
byte key_lease;
byte history[REVISIONS];        /* revision -> the lease to which the owner key was attached, 0: deleted */
byte events[2];                 /* number of events of gateway g's demand key: odd ones are puts, even ones deletes */
byte live;                      /* one bit for each lease of a poller */

#define LEASE(p, term)  (1 + (p) + 2 * (term))
#define BIT(lease)      (1 << ((lease) - 1))
#define LIVE(lease)     ((lease) != 0 && (live & BIT(lease)) != 0)
#define ODD(count)      (((count) & 1) == 1)
#define DEMANDED        (ODD(events[0]) || ODD(events[1]))
#define OWNED           (key_epoch != 0)

/* --- processes --------------------------------------------------------------------------------------------------- */

mtype = { none, claim, release, hand_over, put, delete };       /* requests */
mtype = { pending, done, refused, lease_lost, unread };         /* their state for the sender */
mtype = { down, granted, listed, working, dead };               /* stages of a poller */

typedef Poller {
    mtype stage;
    byte terms;                 /* number of leases that it has had */
    byte lease;                 /* 0: none */
    /* The mirror of owners, and the state of Placement. */
    byte seen_up_to;                  /* revision of the mirror */
    byte item;                  /* Mirror.items: the owner key's epoch, 0: none */
    byte mirrored;              /* RevisionOrder.mirrored */
    byte answered;              /* RevisionOrder.answered */
    byte known;                 /* Placement.owners: the epoch, 0: none */
    byte held;                  /* Placement.held: the epoch of its updates, 0: not the owner */
    bool to_claim;              /* the ClaimQueue */
    bool to_release;            /* the releases of HeldTopics */
    byte demand[2];             /* the mirror of demand: number of `events` that it has received */
    /* The transaction in flight; there is one at a time. */
    mtype request;
    byte epoch;                 /* epoch of the Claim to release or to hand over */
    byte target;                /* the lease to hand over to */
    mtype answer;
    byte answer_epoch;          /* to a claim: the epoch under which the topic is owned; to a hand-over: its
                                   epoch; to a release: 1 when the topic is no longer owned; else 0 */
    mtype futile                /* etcd refused this, and nothing was written since: a retry changes nothing */
};

/* A transaction that poller p has given up, and that etcd may still carry out. */
typedef Late { mtype request; byte lease; byte epoch; byte target };

Poller poller[2];
Late late[2];

byte faults = FAULTS;
byte changes = CHANGES;

/* Gateway 0's side of the updates. Gateway 1's is the same, and no other process receives updates. */
byte fence;                     /* LiveTopic.fence */
byte accepted;                  /* epoch of the last accepted update */
byte seen;                      /* revision of its mirror of owners */
byte slow_update;               /* epoch of one update that is in flight for long, 0: none; others arrive at once */

hidden byte i, j;                /* scratch variables, without meaning between two steps */
hidden byte over;
hidden byte ok;

/* --- etcd's operations ------------------------------------------------------------------------------------------- */

inline owner_key_written(lease_) {      /* 0: deleted */
    revision++;
    assert(revision < REVISIONS);
    history[revision] = lease_;
    key_lease = lease_;
    if :: lease_ != 0 -> key_epoch = revision :: else -> key_epoch = 0 fi;
    poller[0].futile = none; poller[1].futile = none
}

inline demand_written(g) {
    events[g]++;
    poller[0].futile = none; poller[1].futile = none
}

#ifdef NO_CLAIM_COMPARE
#define SOME_DEMAND true
#else
#define SOME_DEMAND DEMANDED
#endif
#ifdef NO_RELEASE_COMPARE
#define NO_DEMAND true
#else
#define NO_DEMAND (!DEMANDED)
#endif

/* One transaction of services/coordination/claims.py: sets `ok`, and `over` when the lease for the put is gone. */
inline carry_out(request_, lease_, epoch_, target_) {
    ok = false; over = false;
    if
    :: request_ == claim && !OWNED && SOME_DEMAND ->
        if
        :: LIVE(lease_) ->
            assert(DEMANDED);           /* no topic without demand is claimed */
            owner_key_written(lease_); ok = true
        :: else -> over = true
        fi
    :: request_ == release && key_epoch == epoch_ && NO_DEMAND ->
        assert(!DEMANDED);              /* no topic with demand is released */
        owner_key_written(0); ok = true
    :: request_ == hand_over && key_epoch == epoch_ && LIVE(target_) ->
        owner_key_written(target_); ok = true
    :: else
    fi
}

inline lease_ends(lease_) {
    live = live & ~BIT(lease_);
    if :: OWNED && key_lease == lease_ -> owner_key_written(0) :: else fi
}

/* Forget events that everyone has received, so that states that differ only in the past are one state. */
#define FOLLOWS(p) (poller[p].stage == listed || poller[p].stage == working)

inline forget() {
    i = revision;
    if :: FOLLOWS(0) && poller[0].seen_up_to < i -> i = poller[0].seen_up_to :: else fi;
    if :: FOLLOWS(1) && poller[1].seen_up_to < i -> i = poller[1].seen_up_to :: else fi;
#ifdef UPDATES
    if :: seen < i -> i = seen :: else fi;
#endif
    do :: i > 0 -> history[i] = 0; i-- :: else -> break od;
    i = 0
}

/* Only the number of events that are still to be delivered matters, and which of them are puts. */
#define FORGETTABLE(p, g) (poller[p].stage != working || poller[p].demand[g] >= 2)

inline forget_demand(g) {
    if
    :: events[g] >= 2 && FORGETTABLE(0, g) && FORGETTABLE(1, g) ->
        events[g] = events[g] - 2;
        if :: poller[0].stage == working -> poller[0].demand[g] = poller[0].demand[g] - 2 :: else fi;
        if :: poller[1].stage == working -> poller[1].demand[g] = poller[1].demand[g] - 2 :: else fi
    :: else
    fi
}

/* --- Placement: the state of a poller ---------------------------------------------------------------------------- */

#define SEES_DEMAND(p) (ODD(poller[p].demand[0]) || ODD(poller[p].demand[1]))

inline consider(p) {
    if :: poller[p].known == 0 && SEES_DEMAND(p) -> poller[p].to_claim = true :: else fi
}

inline lose(p) { poller[p].to_release = false; poller[p].held = 0 }

inline gain(p, epoch_) {
    if
    :: poller[p].held != epoch_ ->
        poller[p].held = epoch_;
        poller[p].futile = none;
        poller[p].to_release = !SEES_DEMAND(p)
    :: else
    fi
}

inline is_over(p, revision_) {
    if :: poller[p].mirrored < revision_ -> poller[p].mirrored = revision_ :: else fi;
    over = revision_ < poller[p].answered;
    if :: !over -> poller[p].answered = 0 :: else fi
}

inline answered_up_to(p, revision_) {   /* the past of the mirror does not matter: one state, not many */
    poller[p].answered = (revision_ > poller[p].seen_up_to -> revision_ : 0)
}

inline owner_set(p, epoch_, lease_) {
    is_over(p, epoch_);
    if
    :: !over ->
        poller[p].known = epoch_;
        poller[p].to_claim = false;
        if :: lease_ == poller[p].lease -> gain(p, epoch_) :: else -> lose(p) fi
    :: else
    fi
}

inline owner_deleted(p, revision_) {
    is_over(p, revision_);
    if :: !over -> poller[p].known = 0; lose(p); consider(p) :: else fi
}

inline demand_changed(p, g) {
    if
    :: ODD(poller[p].demand[g]) -> poller[p].to_release = false; consider(p)
    :: else ->
        if
        :: !SEES_DEMAND(p) -> poller[p].to_claim = false; poller[p].to_release = (poller[p].held != 0)
        :: else
        fi
    fi
}

inline claimed(p, epoch_) {             /* 0: None */
#ifdef NO_OVERTAKING
    if :: epoch_ == 0 -> consider(p)
#else
    if :: epoch_ == 0 || epoch_ <= poller[p].mirrored -> consider(p)
#endif
    :: else ->
        answered_up_to(p, epoch_);
        poller[p].known = epoch_;
        poller[p].to_claim = false;
        gain(p, epoch_)
    fi
}

inline released(p, epoch_, gone) {
    if
    :: poller[p].held != epoch_
    :: poller[p].held == epoch_ && !(gone) -> poller[p].to_release = !SEES_DEMAND(p)
    :: else -> answered_up_to(p, epoch_ + 1); poller[p].known = 0; lose(p); consider(p)
    fi
}

inline unanswered(p) {
    if
    :: poller[p].request == claim -> consider(p)
    :: poller[p].request == release && poller[p].held == poller[p].epoch && !SEES_DEMAND(p) ->
        poller[p].to_release = true
    :: else
    fi
}

inline no_request(p) {
    poller[p].request = none; poller[p].answer = none; poller[p].epoch = 0; poller[p].target = 0;
    poller[p].answer_epoch = 0
}

inline ask(p, request_) {
    poller[p].request = request_;
    poller[p].answer = pending;
    poller[p].epoch = (request_ == claim -> 0 : poller[p].held)
}

inline reset(p) {
    no_request(p);
    poller[p].lease = 0; poller[p].seen_up_to = 0; poller[p].item = 0; poller[p].mirrored = 0; poller[p].answered = 0;
    poller[p].known = 0; poller[p].held = 0; poller[p].to_claim = false; poller[p].to_release = false;
    poller[p].demand[0] = 0; poller[p].demand[1] = 0; poller[p].futile = none;
    poller[p].stage = down
}

/* The mirror, by list: Mirror._list and `diff`. */
inline list_owners(p) {
    poller[p].seen_up_to = revision;
    if
    :: OWNED && poller[p].item != key_epoch -> poller[p].item = key_epoch; owner_set(p, key_epoch, key_lease)
    :: !OWNED && poller[p].item != 0 -> poller[p].item = 0; owner_deleted(p, revision)
    :: else
    fi;
#ifndef LIST_DIFFERENCES_ONLY
    /* Placement.owners_listed: a key that an answer reported and that is gone again is in neither listing. */
    if :: poller[p].mirrored < revision -> poller[p].mirrored = revision :: else fi;
    if :: !OWNED && poller[p].known != 0 -> owner_deleted(p, revision) :: else fi
#endif
}

/* The mirror, by watch. */
inline next_owner(p) {
    poller[p].seen_up_to++;
    if
    :: history[poller[p].seen_up_to] != 0 ->
        poller[p].item = poller[p].seen_up_to; owner_set(p, poller[p].seen_up_to, history[poller[p].seen_up_to])
    :: else ->
        if :: poller[p].item != 0 -> poller[p].item = 0; owner_deleted(p, poller[p].seen_up_to) :: else fi
    fi
}

inline moved(p, epoch_, now_epoch) {
    if
    :: now_epoch == 0 -> released(p, epoch_, true)
    :: now_epoch != 0 && poller[p].held == epoch_ && now_epoch != epoch_ ->
        answered_up_to(p, now_epoch);
        poller[p].known = now_epoch;
        lose(p)
    :: else
    fi
}

/* The conclusion that claims.py (each `outcome`) draws from the owner key after the transaction. */
inline read_key(p) {
    if
    :: poller[p].request == claim -> poller[p].answer_epoch = (OWNED && key_lease == poller[p].lease -> key_epoch : 0)
    :: poller[p].request == release -> poller[p].answer_epoch = (key_epoch != poller[p].epoch)
    :: else -> poller[p].answer_epoch = key_epoch
    fi
}

inline answer_taken(p) {
    i = poller[p].answer_epoch; j = poller[p].epoch;
    if
    :: poller[p].request == claim -> claimed(p, i)
    :: poller[p].request == release -> released(p, j, i)
    :: else -> moved(p, j, i)
    fi;
    no_request(p);
    if
    :: poller[p].futile == claim && !poller[p].to_claim -> poller[p].futile = none
    :: poller[p].futile == release && !poller[p].to_release -> poller[p].futile = none
    :: else
    fi
}

/* Invariants after each step of a poller. A poller that has received everything knows what it owns. */
#define KNOWS_ALL(p) (poller[p].stage == working && poller[p].seen_up_to == revision && poller[p].request == none)
#define OWN_EPOCH(p) (OWNED && key_lease == poller[p].lease -> key_epoch : 0)

inline audit(p) {
    assert(poller[0].held == 0 || poller[0].held != poller[1].held);        /* one Claim of an epoch */
    assert(!OWNED || poller[p].held != key_epoch || poller[p].lease == key_lease);
    assert(!KNOWS_ALL(p) || (poller[p].known == key_epoch && poller[p].held == OWN_EPOCH(p)))
}

#define P poller[p]

proctype A_poller(bit p) {
end:
    do
    /* a session begins and ends */
    :: d_step { P.stage == down ->
        P.lease = LEASE(p, P.terms); P.terms++; live = live | BIT(P.lease); P.stage = granted;
        printf("poller %d gets lease %d\n", p, P.lease) }
    :: d_step { P.stage == granted ->
        P.stage = listed; list_owners(p); audit(p); forget();
        printf("poller %d lists owners: epoch %d\n", p, P.known) }
    :: d_step { P.stage == listed ->
        P.stage = working;
        P.demand[0] = events[0]; P.demand[1] = events[1]; consider(p);
        if :: P.held != 0 -> P.to_release = !SEES_DEMAND(p) :: else fi;
        audit(p); forget();
        printf("poller %d lists demand: %d\n", p, SEES_DEMAND(p)) }
    :: d_step { P.lease != 0 && !LIVE(P.lease) ->
        printf("poller %d learns that its lease %d is gone: it stops everything and starts over\n", p, P.lease);
        reset(p); audit(p); forget() }

    /* events from etcd */
    :: d_step { FOLLOWS(p) && P.seen_up_to < revision ->
        next_owner(p);
        printf("poller %d sees revision %d: it knows epoch %d and holds %d\n", p, P.seen_up_to, P.known, P.held);
        audit(p); forget() }
    :: d_step { faults > 0 && FOLLOWS(p) && P.seen_up_to + 1 < revision ->
        faults--; list_owners(p);
        printf("poller %d has lost its watch of owners and lists at %d: it knows epoch %d and holds %d\n", p,
            P.seen_up_to, P.known, P.held);
        audit(p); forget() }
    :: d_step { P.stage == working && P.demand[0] < events[0] ->
        P.demand[0]++; demand_changed(p, 0); forget_demand(0); audit(p); forget();
        printf("poller %d sees the demand of gateway 0: %d\n", p, ODD(P.demand[0])) }
    :: d_step { P.stage == working && P.demand[1] < events[1] ->
        P.demand[1]++; demand_changed(p, 1); forget_demand(1); audit(p); forget();
        printf("poller %d sees the demand of gateway 1: %d\n", p, ODD(P.demand[1])) }

    /* transactions */
    :: d_step { P.stage == working && P.request == none && P.to_claim && P.futile != claim ->
        P.to_claim = false; ask(p, claim);
        printf("poller %d sends a claim\n", p) }
    :: d_step { P.stage == working && P.request == none && P.to_release && P.futile != release ->
        P.to_release = false; ask(p, release);
        printf("poller %d sends a release of epoch %d\n", p, P.held) }
    :: d_step { faults > 0 && P.stage == working && P.request == none && P.held != 0 && poller[1 - p].lease != 0 ->
        faults--; P.target = poller[1 - p].lease; ask(p, hand_over);
        printf("poller %d sends a hand-over of epoch %d to lease %d\n", p, P.held, P.target) }
    :: d_step { P.answer == done || P.answer == refused ->
        answer_taken(p); audit(p); forget();
        printf("poller %d has its answer: it knows epoch %d and holds %d\n", p, P.known, P.held) }
    :: d_step { P.answer == lease_lost ->
        printf("poller %d learns from an answer that its lease is gone\n", p);
        reset(p); audit(p); forget() }

    /* a request without an answer */
    :: d_step { faults > 0 && P.answer == pending && late[p].request == none ->
        faults--; P.answer = unread;
        late[p].request = P.request; late[p].lease = P.lease; late[p].epoch = P.epoch; late[p].target = P.target;
        printf("poller %d stops waiting for its answer: the request is still in flight\n", p) }
    :: d_step { faults > 0 && (P.answer == pending || P.answer == done || P.answer == refused) ->
        faults--; P.answer_epoch = 0; P.answer = unread;
        printf("poller %d stops waiting for its answer: the request or the answer is lost\n", p) }
    :: d_step { P.answer == unread ->
        P.answer = refused; read_key(p);
        printf("poller %d reads back: epoch %d, lease %d\n", p, key_epoch, key_lease) }
    :: d_step { P.answer == unread ->
        unanswered(p); no_request(p); audit(p); forget();
        printf("poller %d cannot read back, and will retry\n", p) }

    /* death */
    :: d_step { faults > 0 && P.lease != 0 ->
        faults--;
        if
        :: P.answer == pending && late[p].request == none ->
            late[p].request = P.request; late[p].lease = P.lease; late[p].epoch = P.epoch; late[p].target = P.target
        :: else
        fi;
        reset(p); forget();
        printf("poller %d is killed, and restarted\n", p) }
    :: d_step { faults > 0 && P.lease != 0 && poller[1 - p].stage != dead ->
        faults--;
        if
        :: P.answer == pending && late[p].request == none ->
            late[p].request = P.request; late[p].lease = P.lease; late[p].epoch = P.epoch; late[p].target = P.target
        :: else
        fi;
        reset(p); P.stage = dead; forget();
        printf("poller %d is killed for ever\n", p) }
    od
}

/* --- gateways ------------------------------------------------------------------------------------------------------
 * A poller cannot distinguish why demand came or went (clients, an expired lease, an operator, a late write), so here
 * it comes and goes at any moment. model/demand.pml shows that in the end etcd shows the gateway's demand. */

proctype A_gateway(bit g) {
end:
    do
    :: d_step { changes > 0 ->
        changes--; demand_written(g); forget_demand(g);
        printf("gateway %d: demand %d (1: comes, 0: goes)\n", g, ODD(events[g])) }
    od
}

/* --- etcd, leases, the operator, updates ------------------------------------------------------------------------- */

#define Q poller[q]

proctype Etcd_for(bit q) {      /* etcd, for poller q and gateway q */
    byte orphan;
end:
    do
    :: d_step { Q.answer == pending ->
        carry_out(Q.request, Q.lease, Q.epoch, Q.target);
        if
        :: over -> Q.answer = lease_lost; no_request(q); Q.answer = lease_lost
        :: ok && !over -> Q.answer = done; read_key(q)
        :: !ok && !over -> Q.answer = refused; read_key(q);
            if :: Q.request == claim || (Q.request == release && Q.epoch == Q.held) -> Q.futile = Q.request :: else fi
        fi;
        printf("etcd, for poller %d: %e %e -> epoch %d\n", q, Q.request, Q.answer, key_epoch) }
    :: d_step { late[q].request != none ->
        carry_out(late[q].request, late[q].lease, late[q].epoch, late[q].target);
        printf("etcd, late, for poller %d: %e %d (1: done) -> epoch %d\n", q, late[q].request, ok, key_epoch);
        late[q].request = none; late[q].lease = 0; late[q].epoch = 0; late[q].target = 0 }

    /* leases */
    :: d_step { faults > 0 && LIVE(Q.lease) ->
        faults--; lease_ends(Q.lease);
        printf("lease %d of poller %d expires -> epoch %d\n", Q.lease, q, key_epoch) }
    :: d_step { (live & (q == 0 -> 85 : 170) & ~(Q.lease != 0 -> BIT(Q.lease) : 0)) != 0 ->
        orphan = LEASE(q, 0);
        do :: LIVE(orphan) && orphan != Q.lease -> break :: else -> orphan = orphan + 2 od;
        lease_ends(orphan); forget();
        printf("lease %d, which poller %d no longer renews, expires -> epoch %d\n", orphan, q, key_epoch);
        orphan = 0 }

    /* the operator */
    :: d_step { q == 0 && faults > 0 && OWNED ->
        faults--; owner_key_written(0);
        printf("the operator deletes the owner key\n") }
    od
}

#ifdef UPDATES

inline update_arrives(epoch_) {
#ifdef NO_FENCE
    if :: true ->
#else
    if :: epoch_ >= fence ->
#endif
        printf("gateway 0 accepts an update of epoch %d after one of %d\n", epoch_, accepted);
        assert(epoch_ >= accepted);     /* no update is accepted after a newer one */
        accepted = epoch_;
        if :: fence < epoch_ -> fence = epoch_ :: else fi
    :: else -> printf("gateway 0 rejects an update of epoch %d: it knows %d\n", epoch_, fence)
    fi
}

proctype Updates() {
end:
    do
    :: d_step { seen < revision ->
        seen++;
        if :: history[seen] != 0 && fence < seen -> fence = seen :: else fi;
        printf("gateway 0 sees revision %d: it knows %d\n", seen, fence);
        forget() }
    :: d_step { poller[0].held > accepted -> update_arrives(poller[0].held) }
    :: d_step { poller[1].held > accepted -> update_arrives(poller[1].held) }
    :: d_step { slow_update == 0 && poller[0].held != 0 ->
        slow_update = poller[0].held;
        printf("poller 0 sends an update of epoch %d, which is in flight for long\n", slow_update) }
    :: d_step { slow_update == 0 && poller[1].held != 0 ->
        slow_update = poller[1].held;
        printf("poller 1 sends an update of epoch %d, which is in flight for long\n", slow_update) }
    :: d_step { slow_update != 0 -> update_arrives(slow_update); slow_update = 0 }
    od
}
#endif

/* --- when nothing more can happen -------------------------------------------------------------------------------- */

proctype Auditor() {
    timeout;
    printf("nothing more can happen: epoch %d, held %d and %d, demand %d and %d\n", key_epoch, poller[0].held,
        poller[1].held, ODD(events[0]), ODD(events[1]));
    assert(DEMANDED == OWNED);
    assert(!OWNED || LIVE(key_lease));
    assert((OWNED -> key_epoch : 0) == poller[0].held + poller[1].held);    /* the owner holds it, no other does */
end: progress:
    do :: false od
}

init {
    d_step {
        for (i : 0 .. 1) {
            poller[i].stage = working; poller[i].lease = LEASE(i, 0); poller[i].terms = 1;
            live = live | BIT(LEASE(i, 0));
            poller[i].request = none; poller[i].answer = none; poller[i].futile = none;
            late[i].request = none
        }
        i = 0
    };
    atomic {
        run A_poller(0); run A_poller(1); run A_gateway(0); run A_gateway(1); run Etcd_for(0); run Etcd_for(1);
#ifdef UPDATES
        run Updates();
#endif
        run Auditor()
    }
}

#ifdef LTL_OWNED
ltl owned { [] (DEMANDED -> <> (OWNED || !DEMANDED)) }
#endif
#ifdef LTL_IDLE
ltl idle { [] (!DEMANDED -> <> (!OWNED || DEMANDED)) }
#endif
