-- What handlers save of their executions' state, for the next attempt (docs/decisions/0019-checkpoints.md).
create table checkpoint (
    win            int4 not null,                                        -- its execution's
    lane           int2 not null,
    seq            int8 not null,
    fence          int8 not null,                                        -- of the attempt that saved it
    number         int8 not null,                                        -- grows within the attempt
    tenant         int4 not null,
    at             timestamptz not null,                                 -- recorded
    progress_done  int8,                                                 -- how far it was by then, if it said
    progress_total int8,
    progress_note  text,
    state          bytea not null,
    primary key (lane, seq, fence, number, win)
) partition by range (win);
alter table checkpoint alter state set storage external;

-- Those of executions that outlive their windows.
create table kept_checkpoint (like checkpoint including all);

select guard_tenants('checkpoint'), guard_tenants('kept_checkpoint');
grant select on kept_checkpoint to watchwork_reader;

-- Windows that are there already have executions that may save something. They go as those of the outcomes go.
do $$
declare
    home "window";
    made text;
begin
    for home in select * from "window" where table_name = 'outcome' and state < 4 order by from_hour loop
        made := 'checkpoint_' || home.from_hour;
        execute format('create table %s partition of checkpoint for values from (%s) to (%s)
            with (autovacuum_enabled = off)', made, home.from_hour, home.to_hour);
        perform guard_tenants(made::regclass);
        execute format('grant select on %s to watchwork_reader', made);
        insert into "window" (table_name, from_hour, to_hour, leaf, state, marked)
            values ('checkpoint', home.from_hour, home.to_hour, made, home.state, home.marked);
    end loop;
end $$;
insert into let_go (table_name, from_hour, lane)
    select 'checkpoint', l.from_hour, l.lane from let_go l join "window" w
        on w.table_name = 'checkpoint' and w.from_hour = l.from_hour
        where l.table_name = 'outcome';

-- What handlers say of their attempts, if they do.
alter table outcome
    add items_success  int8,
    add items_failed   int8,
    add items_skipped  int8,
    add progress_done  int8,
    add progress_total int8,
    add progress_note  text;
alter table kept_outcome
    add items_success  int8,
    add items_failed   int8,
    add items_skipped  int8,
    add progress_done  int8,
    add progress_total int8,
    add progress_note  text;
