-- The right to decide: one row for each start of a coordinator. `successor` is the epoch that
-- goes on with what one has begun that is over; NULL while it stands.
CREATE TABLE epoch (
    epoch     INTEGER PRIMARY KEY,
    instance  TEXT NOT NULL,
    horizon   TEXT,           -- a txn_id: below it no transaction of this epoch is under way
    successor INTEGER REFERENCES epoch (epoch)
);
