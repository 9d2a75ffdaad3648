-- What is due later, by queue: lists of it go the way of those of executions and outcomes.
create index due_by_queue on due (queue, due_at, lane, seq);
create index kept_due_by_queue on kept_due (queue, due_at, lane, seq);
