-- How windows go: marked as closing, sealed once no transaction is older than the mark, let go of by every
-- lane, out of use, detached, dropped.

alter table "window"
    add marked  xid8,                                                    -- older transactions may still write there
    add changed timestamptz not null default clock_timestamp(),          -- when the state did
    add frozen  boolean not null default false;                          -- its rows need no vacuum any more

-- What lanes need no more: each says so once for each window. A fact, whoever tells it.
create table let_go (
    table_name text not null,
    from_hour  int4 not null,
    lane       int2 not null,
    primary key (table_name, from_hour, lane)
);

-- How long a queue's failures and dead letters are kept; null: as long as everything else.
alter table queue add failures_hours int4 check (failures_hours >= 0);
