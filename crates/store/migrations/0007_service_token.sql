-- What the installation's processes prove themselves to each other with, as a hash: a scheduler that was given
-- another token than those that live takes no lanes. Confirmed by each scheduler before it takes any.
create table service_token (
    only_one  boolean primary key default true check (only_one),
    proof     bytea not null check (octet_length(proof) = 32),           -- salted with the ids' key
    confirmed timestamptz not null
);
