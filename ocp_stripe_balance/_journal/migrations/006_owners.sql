-- When the process of an owner began: after a restart another one may have its ID. Of older rows it is not known.
ALTER TABLE calls ADD COLUMN owner_began TEXT;
