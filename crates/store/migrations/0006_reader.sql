-- What serves a tenant's reads sees that tenant's rows and no others, whatever a statement forgets: every table
-- and leaf with a tenant in it is under forced row security (docs/decisions/0014-row-security.md).

-- The role that tenants' rows are read as. It belongs to the server: another database may have made it.
do $$
declare
    may_be text := case when current_setting('server_version_num')::int >= 160000 then 'set' else 'member' end;
begin
    begin
        if to_regrole('watchwork_reader') is null then
            create role watchwork_reader nologin;
        end if;
    exception
        when duplicate_object or unique_violation then                   -- by another database, just now
        when insufficient_privilege then
            raise exception
                'the role watchwork_reader is missing, as which tenants'' rows are read, and % may not create it. '
                'Let a superuser run: create role watchwork_reader nologin; grant watchwork_reader to %; '
                'then start the scheduler again', current_user, quote_ident(current_user)
                using errcode = 'insufficient_privilege';
    end;
    begin
        if not pg_has_role(current_user, 'watchwork_reader', may_be) then
            begin
                execute format('grant watchwork_reader to %I', current_user);
            exception
                when unique_violation or internal_error then null;       -- for another database, just now
            end;
        end if;
        if not has_schema_privilege('watchwork_reader', current_schema(), 'usage') then
            execute format('grant usage on schema %I to watchwork_reader', current_schema());
        end if;
    exception
        when insufficient_privilege then
            raise exception
                '% may not act as the role watchwork_reader, as which tenants'' rows are read. Let a superuser '
                'run: grant watchwork_reader to %; grant usage on schema % to watchwork_reader; '
                'then start the scheduler again', current_user, quote_ident(current_user), current_schema()
                using errcode = 'insufficient_privilege';
    end;
end $$;

-- Puts a table under it: its owner sees and writes everything, the reader what is the tenant's that its
-- transaction names, and that is nothing if it names none. A parent's policies don't hold for a leaf that is
-- named itself, as ours are, so each leaf has its own.
create function guard_tenants(leaf regclass) returns void language plpgsql as $$
begin
    execute format('alter table %s enable row level security, force row level security', leaf);
    execute format('create policy of_owner on %s to current_role using (true)', leaf);
    execute format('create policy of_tenant on %s for select to watchwork_reader
        using (tenant = nullif(current_setting(''watchwork.tenant'', true), '''')::int4)', leaf);
end $$;

do $$
declare
    leaf regclass;
begin
    for leaf in
        select c.oid from pg_class c join pg_attribute a on a.attrelid = c.oid
            where c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
                and a.attname = 'tenant' and not a.attisdropped
            order by c.oid
    loop
        perform guard_tenants(leaf);
    end loop;
    -- What reads for tenants name.
    for leaf in
        select to_regclass(w.leaf) from "window" w
            where w.table_name in ('execution', 'outcome', 'due') and to_regclass(w.leaf) is not null
    loop
        execute format('grant select on %s to watchwork_reader', leaf);
    end loop;
end $$;
grant select on kept_execution, kept_outcome, kept_due to watchwork_reader;
