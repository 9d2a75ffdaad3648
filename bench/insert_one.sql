insert into status_job (kind, payload) values ('noop', '{"user":123456,"email":"someone@example.com","template":"welcome","n":1}'::jsonb);
