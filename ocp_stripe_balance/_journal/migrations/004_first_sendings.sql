-- What a rule may demand of a call that is sent for the first time, also where it is resumed. Of older calls it is not
-- known, so they have to say it again.
ALTER TABLE calls ADD COLUMN has_stated_effect INTEGER NOT NULL DEFAULT 0;
-- This machine has one name, whatever the base URL calls it.
UPDATE OR IGNORE calls SET base_url = replace(base_url, '://localhost', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://localhost[:/]*';
UPDATE OR IGNORE calls SET base_url = replace(base_url, '://[::1]', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://[[]::1][:/]*';
UPDATE decisions SET base_url = replace(base_url, '://localhost', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://localhost[:/]*';
UPDATE decisions SET base_url = replace(base_url, '://[::1]', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://[[]::1][:/]*';
UPDATE proposals SET base_url = replace(base_url, '://localhost', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://localhost[:/]*';
UPDATE proposals SET base_url = replace(base_url, '://[::1]', '://127.0.0.1')
WHERE base_url || '/' GLOB 'http*://[[]::1][:/]*';
