-- References in the one spelling of all that look the same; as they were written they stand in the arguments.
UPDATE calls SET reference = NULLIF(one_spelling(reference), '') WHERE reference IS NOT NULL;
UPDATE decisions SET reference = NULLIF(one_spelling(reference), '') WHERE reference IS NOT NULL;
UPDATE proposals SET reference = NULLIF(one_spelling(reference), '') WHERE reference IS NOT NULL;
-- A call that joined the proposal of another key has two names from then on.
CREATE TABLE joined (
    key TEXT NOT NULL, base_url TEXT NOT NULL, mode TEXT NOT NULL, account TEXT NOT NULL, first_key TEXT NOT NULL,
    PRIMARY KEY (key, base_url, mode, account)
) WITHOUT ROWID;
CREATE INDEX proposals_standing ON proposals (customer) WHERE state IN ('waiting', 'approved');
