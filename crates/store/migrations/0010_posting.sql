-- Fails the statement that calls it unless what it puts into inboxes was planned just now: no window that was in use a
-- minute ago goes while the statement runs. A scheduler may have been stopped for hours between plan and statement, or
-- its machine's clock with it.
create function post_fence(planned timestamptz, inserted int8) returns int8 language plpgsql as $$
begin
    if abs(extract(epoch from clock_timestamp() - planned)) > 60 then
        raise exception 'planned for %, and it is %', planned, clock_timestamp() using errcode = 'WW003';
    end if;
    return inserted;
end $$;
