-- The statements about people, as in statements.sql.

-- person:
-- The account of that name.
SELECT name, roles, password, issuer, subject, made_at, disabled_at FROM people WHERE name = :name

-- person_of_subject:
-- The account that an OpenID provider knows as that.
SELECT name, roles, password, issuer, subject, made_at, disabled_at FROM people
WHERE issuer = :issuer AND subject = :subject

-- people:
-- All accounts.
SELECT name, roles, password, issuer, subject, made_at, disabled_at FROM people ORDER BY name

-- add_person:
-- Make an account, where there is none of that name, and nobody else is known as that.
INSERT INTO people (name, roles, password, issuer, subject, made_at)
VALUES (:name, :roles, :password, :issuer, :subject, :now) ON CONFLICT DO NOTHING

-- set_password:
-- Let a password be good, and no other.
UPDATE people SET password = :password WHERE name = :name

-- rehash:
-- Keep the same password with another hash, unless it was changed meanwhile.
UPDATE people SET password = :password WHERE name = :name AND password = :old

-- set_roles:
-- Let a person do what these roles may.
UPDATE people SET roles = :roles WHERE name = :name

-- disable:
-- Let nobody come in under that name.
UPDATE people SET disabled_at = :now WHERE name = :name AND disabled_at IS NULL

-- enable:
-- Let them come in again.
UPDATE people SET disabled_at = NULL WHERE name = :name

-- begin_session:
-- Let somebody in.
INSERT INTO sessions VALUES (:digest, :name, :how, :address, :now, :now)

-- session:
-- Who is in with that secret; not who is disabled, was not seen for too long, or came in too long ago.
SELECT sessions.name AS name, roles, how, seen_at FROM sessions JOIN people ON people.name = sessions.name
WHERE digest = :digest AND disabled_at IS NULL AND seen_at > :after AND began_at > :since

-- see_session:
-- Note that somebody is there.
UPDATE sessions SET seen_at = :now WHERE digest = :digest

-- end_session:
-- Let the secret be good for nothing.
DELETE FROM sessions WHERE digest = :digest

-- end_sessions:
-- Let no secret of a person be good for anything.
DELETE FROM sessions WHERE name = :name

-- end_old_sessions:
-- Forget those that are over.
DELETE FROM sessions WHERE seen_at <= :after OR began_at <= :since

-- attempts:
-- How often somebody was refused of late, and until when they wait.
SELECT failures, until FROM attempts WHERE whose = :whose AND at > :since

-- attempt:
-- Note a refusal.
INSERT INTO attempts VALUES (:whose, :number, :now, :until)
ON CONFLICT (whose) DO UPDATE SET failures = excluded.failures, at = excluded.at, until = excluded.until

-- forgive:
-- Forget the refusals of somebody.
DELETE FROM attempts WHERE whose = :whose

-- forget_attempts:
-- Forget what nobody has to wait for any more.
DELETE FROM attempts WHERE at <= :since

-- visit:
-- Note what somebody did, or what was done about them.
INSERT INTO visits (at, what, name, how, address, detail) VALUES (:now, :what, :name, :how, :address, :detail)

-- came_from:
-- Whether somebody came in from an address of late.
SELECT 1 FROM visits WHERE name = :name AND what = 'signed in' AND address = :address AND at > :since LIMIT 1

-- visits:
-- What was noted of late, of one person or of all, newest first.
SELECT at, what, name, how, address, detail FROM visits WHERE :name IS NULL OR name = :name
ORDER BY number DESC LIMIT :number
