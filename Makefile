# Each target installs what it needs and is missing, and nothing else.

.PHONY: demo test bench lint soak evidence evidence-4m

# Builds the page and serves it on this machine: open the address that it prints.
demo:
	scripts/setup.sh demo
	cd www && npm run build && npm run demo

# Every check; the last line says how many passed, failed and were skipped.
test:
	scripts/setup.sh test
	node scripts/test.mjs

# The page, left open for half an hour in Chromium: nothing may grow. SOAK_MINUTES for as long as you like, SOAK_DEVICE=gpu.
soak:
	scripts/setup.sh test
	cd www && npm run build && SOAK_MINUTES=$${SOAK_MINUTES:-30} npm run test:soak

# Kernels and a whole model on the CPU executor, and kernels on a real GPU if there is one, in a few minutes. `sinkstream bench` measures any model on any device; docs/benchmarks.md.
bench:
	cargo bench --locked --bench kernels --bench model

# The papers' tables and figures with the bundled model; about a quarter of an hour. TEXT=book.txt for a text of your own.
evidence:
	scripts/setup.sh evidence
	cargo build --release --locked
	node scripts/evidence.mjs tables $(TEXT)

# Four million tokens in one stream; goes on where an ended run stood.
evidence-4m:
	scripts/setup.sh evidence
	cargo build --release --locked
	node scripts/evidence.mjs 4m $(TEXT)

# Formatting, clippy for both targets, types.
lint:
	scripts/setup.sh lint
	node scripts/test.mjs fmt clippy web
