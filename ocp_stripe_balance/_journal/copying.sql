-- The statements of copying one journal into another, of tables that are numbered; as in statements.sql.

-- page:
-- The rows after a number, in order.
SELECT * FROM {table} WHERE {number} > :row ORDER BY {number} LIMIT :number

-- page_of_joined:
-- The same of the table that has no numbers.
SELECT * FROM joined WHERE (key, base_url, mode, account) > (:key, :base_url, :mode, :account)
ORDER BY key, base_url, mode, account LIMIT :number

-- newest:
-- The highest number.
SELECT COALESCE(MAX({number}), 0) FROM {table}

-- take_out:
-- Let a row be put in anew.
DELETE FROM {table} WHERE {number} = :number

-- put_in:
-- Put a row into a file.
INSERT INTO {table} ({names}) VALUES ({places})

-- put_in_all:
-- Put rows into a server's table.
INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, CAST(:rows AS json))

-- count_on:
-- Let a server go on counting behind the highest number.
SELECT setval(pg_get_serial_sequence('{table}', '{number}'), GREATEST(MAX({number}), 1), MAX({number}) IS NOT NULL)
FROM {table}

-- analyze:
-- Let a server know what is in a table, by which it chooses an index.
ANALYZE {table}

-- version:
-- The format of a journal, or the mark of a copy that is not whole.
SELECT MAX(version) FROM migrations

-- mark:
-- Let nobody use a journal.
INSERT INTO migrations VALUES (:number, :now)

-- unmark:
-- Let it be used.
DELETE FROM migrations WHERE version > :number

-- windows:
-- The windows whose totals are kept.
SELECT per, window_s, since FROM totalled

-- sums:
-- How many records there are of each kind, and what their amounts come to.
SELECT 'calls' AS what, mode, currency, state AS outcome, COUNT(*) AS number, CAST(SUM(amount) AS BIGINT) AS amount
FROM calls GROUP BY 2, 3, 4
UNION ALL SELECT 'decisions', mode, currency, decision, COUNT(*), CAST(SUM(amount) AS BIGINT)
FROM decisions GROUP BY 2, 3, 4
UNION ALL SELECT 'proposals', mode, currency, state, COUNT(*), CAST(SUM(amount) AS BIGINT)
FROM proposals GROUP BY 2, 3, 4
UNION ALL SELECT 'votes', '', '', CASE WHEN is_approved THEN 'approved' ELSE 'denied' END, COUNT(*), 0
FROM votes GROUP BY 4
UNION ALL SELECT 'deliveries', '', '', state, COUNT(*), 0
FROM deliveries GROUP BY 4
UNION ALL SELECT 'people', '', '', roles, COUNT(*), 0
FROM people GROUP BY 4
UNION ALL SELECT 'visits', '', '', what, COUNT(*), 0
FROM visits GROUP BY 4
UNION ALL SELECT 'joined', mode, '', '', COUNT(*), 0
FROM joined GROUP BY 2
