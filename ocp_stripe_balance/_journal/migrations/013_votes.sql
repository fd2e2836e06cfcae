-- What each person said to a proposal, how they signed in, and the digest of what they were shown: two may be needed.
ALTER TABLE proposals ADD COLUMN needed INTEGER NOT NULL DEFAULT 1;
CREATE TABLE votes (
    number INTEGER PRIMARY KEY, proposal TEXT NOT NULL, is_approved INTEGER NOT NULL, person TEXT NOT NULL,
    who TEXT NOT NULL, how TEXT NOT NULL, at REAL NOT NULL, reason TEXT NOT NULL, shown TEXT NOT NULL
);
CREATE INDEX votes_by_proposal ON votes (proposal);
-- What was decided before there were votes is one, so that it still counts where more people are needed now.
INSERT INTO votes (proposal, is_approved, person, who, how, at, reason, shown)
SELECT id, state != 'denied', '', decided_by, '', decided_at, COALESCE(reason, ''), ''
FROM proposals WHERE decided_by IS NOT NULL AND decided_at IS NOT NULL ORDER BY number;
