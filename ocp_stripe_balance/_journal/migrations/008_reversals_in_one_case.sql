-- 'reversal of …' was the one reference that kept its case, whoever wrote it.
UPDATE calls SET reference = one_spelling(reference) WHERE reference GLOB 'reversal of *';
UPDATE decisions SET reference = one_spelling(reference) WHERE reference GLOB 'reversal of *';
UPDATE proposals SET reference = one_spelling(reference) WHERE reference GLOB 'reversal of *';
