# KCSAN for Rust: the same instrumentation as for C, by the compilers' common back end.
sed -i 's/\["kcfi", "kernel-address"\]/["kcfi", "kernel-address", "thread"]/' \
	scripts/generate_rust_target.rs
grep -q '"thread"' scripts/generate_rust_target.rs
cat >> scripts/Makefile.kcsan <<'END'

KBUILD_RUSTFLAGS += -Zsanitizer=thread $(addprefix -Cllvm-args=, \
	-tsan-distinguish-volatile=1 -tsan-compound-read-before-write=1 \
	-tsan-instrument-func-entry-exit=0)
END
