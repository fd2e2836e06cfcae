-- Facts that were hidden in texts, in columns of their own. Each default is the safe one for a row that a worker of
-- the version before still writes: its entry cannot be told apart in the ledger, its owner counts as alive.
ALTER TABLE calls ADD COLUMN key_origin TEXT NOT NULL DEFAULT 'caller';
ALTER TABLE calls ADD COLUMN moves_money INTEGER NOT NULL DEFAULT 1;
ALTER TABLE calls ADD COLUMN is_tagged INTEGER NOT NULL DEFAULT 0;
ALTER TABLE calls ADD COLUMN transaction_id TEXT;
ALTER TABLE calls ADD COLUMN warnings TEXT;
ALTER TABLE calls ADD COLUMN owner_host TEXT;
ALTER TABLE calls ADD COLUMN owner_pid INTEGER;
ALTER TABLE decisions ADD COLUMN moves_money INTEGER NOT NULL DEFAULT 1;
ALTER TABLE proposals ADD COLUMN key_origin TEXT NOT NULL DEFAULT 'caller';
ALTER TABLE proposals ADD COLUMN moves_money INTEGER NOT NULL DEFAULT 1;
-- Derived keys were a prefix and 64 hexadecimal digits; a caller may well call its own key ref-1.
UPDATE calls SET
    key_origin = CASE
        WHEN key LIKE 'ref-%' AND length(key) = 68 AND reference IS NOT NULL THEN 'reference'
        WHEN key LIKE 'rev-%' AND length(key) = 68 THEN 'reversal'
        ELSE 'caller'
    END,
    moves_money = amount != 0,
    is_tagged = instr(body, CAST('metadata%5Bocp_call%5D=' AS BLOB)) > 0,
    transaction_id = CASE
        WHEN state = 'succeeded' AND amount != 0 AND json_valid(answer) THEN json_extract(answer, '$.id')
    END,
    warnings = CASE WHEN note LIKE '[%' THEN note END,
    note = CASE WHEN note LIKE '[%' THEN NULL ELSE note END,
    owner_host = CASE WHEN owner LIKE '%:%:%' THEN substr(owner, 1, instr(owner, ':') - 1) END,
    owner_pid = CASE WHEN owner LIKE '%:%:%' THEN CAST(substr(owner, instr(owner, ':') + 1) AS INTEGER) END;
UPDATE decisions SET moves_money = amount != 0;
UPDATE proposals SET
    key_origin = CASE
        WHEN key LIKE 'ref-%' AND length(key) = 68 AND reference IS NOT NULL THEN 'reference'
        WHEN key LIKE 'rev-%' AND length(key) = 68 THEN 'reversal'
        ELSE 'caller'
    END,
    moves_money = amount != 0;
CREATE INDEX calls_by_transaction ON calls (transaction_id) WHERE transaction_id IS NOT NULL;
