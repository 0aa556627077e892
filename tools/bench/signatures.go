package main

import (
	"runtime"
	"strings"
	"time"
)

func nanoseconds(n float64) time.Duration { return time.Duration(n) }

// signatures measures making and checking signatures, one process for each processor.
func (b *bench) signatures() error {
	b.report.section("Signatures", `
The benchmarks of the packages, one process on each processor at the same time; rates are those of all together. A Guix
signature is checked as the client does: the canonical form is parsed, the key compared with the acl, the hash compared
with the narinfo's text, and the Ed25519 signature verified. CPU includes the start of the test program.`)
	b.report.table("", "per second, all processors", "per CPU second, one processor")
	for _, m := range []struct {
		what, folder, pattern string
		operations            int
	}{
		{"Guix: verify a narinfo", "internal/guixkey", "^BenchmarkVerify$/^whole$", 10_000},
		{"Guix: sign", "internal/guixkey", "^BenchmarkSign$", 10_000},
		{"Nix: verify", "internal/nixkey", "^BenchmarkVerify$", 10_000},
		{"Nix: sign", "internal/nixkey", "^BenchmarkSign$", 20_000},
	} {
		samples, err := alternate(b.rounds, []peer{{m.what, func(int) (sample, error) {
			return b.manyProcesses(m.folder, m.pattern, runtime.NumCPU(), m.operations)
		}}})
		if err != nil {
			return err
		}
		s := samples[m.what]
		b.report.row(strings.TrimSpace(m.what), rates(s).String(), spreadOf(len(s), func(i int) float64 { return 1 / s[i].cost() }).String())
	}
	return nil
}
