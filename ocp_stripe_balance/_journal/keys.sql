-- open_keys:
-- The keys under which calls are found whose outcome is to be found out: their own, and those that joined one.
SELECT key FROM calls
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode AND account = :account
UNION SELECT joined.key FROM calls JOIN joined USING (base_url, mode, account)
WHERE state IN ('sending', 'unknown') AND base_url = :base_url AND mode = :mode AND account = :account
    AND first_key = calls.key

-- ended_keys:
-- The keys, of some, whose own calls ended for good; not those that a program gave to a call of its own.
SELECT key FROM calls
WHERE base_url = :base_url AND mode = :mode AND account = :account AND is_final
    AND key_origin IN ('reference', 'reversal') AND key IN (SELECT value FROM json_each(:keys))
