# Each target installs what it needs and is missing, and nothing else.

.PHONY: demo test bench lint

# Builds the page and serves it on this machine: open the address that it prints.
demo:
	scripts/setup.sh demo
	cd www && npm run build && npm run demo

# Every check; the last line says how many passed, failed and were skipped.
test:
	scripts/setup.sh test
	node scripts/test.mjs

bench:
	cargo bench

# Formatting, clippy for both targets, types.
lint:
	scripts/setup.sh lint
	node scripts/test.mjs fmt clippy web
