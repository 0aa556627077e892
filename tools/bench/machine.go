package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"
)

// machine is the head of a page: on what, with what and when this was measured.
func (b *bench) machine(page int, before string, begun time.Time) string {
	cpu := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, after, ok := bytes.Cut(text, []byte("model name\t: ")); ok {
			cpu = string(bytes.SplitN(after, []byte("\n"), 2)[0])
		}
	}
	var memory syscall.Sysinfo_t
	_ = syscall.Sysinfo(&memory)
	var s strings.Builder
	fmt.Fprintf(&s, `# Benchmarks of part %d

Written by %s, a run of %s. Each peer had its turn in each round, and the order changed from round to round. A rate is the
median of the rounds, with the least and the greatest in parentheses; CPU is user and system time of the process that is measured,
with its children. **A ratio is the median of the ratios of the single rounds**, so that a machine which others use at the same time
slows both sides of it. A ratio of rates above 1 is better than the peer; a ratio of CPU below 1 is. A load above the number of
processors before the run says that others did use the machine.

| | |
|---|---|
`, page, "`make bench`", time.Since(begun).Round(time.Second))
	row := func(name, value string) { fmt.Fprintf(&s, "| %s | %s |\n", name, value) }
	row("date", begun.UTC().Format("2006-01-02 15:04 UTC"))
	row("processor", fmt.Sprintf("%s, %d processors seen", cpu, runtime.NumCPU()))
	row("memory", fmt.Sprintf("%d GB", uint64(memory.Totalram)*uint64(memory.Unit)/1e9))
	row("kernel", firstLine("uname", "-sr"))
	row("disk", "file system "+firstLine("stat", "-f", "-c", "%T", b.disk))
	row("load before", before)
	row("load after", load())
	row("narfold", firstLine(b.narfold, "version"))
	row("go", firstLine("go", "version"))
	row("wrk", strings.Split(firstLine("wrk", "-v"), " Copyright")[0])
	if page == 1 {
		row("nix", firstLine("nix", "--version"))
		row("nginx", firstLine(nginxProgram(), "-v"))
		row("go-nix", moduleVersion("github.com/nix-community/go-nix"))
		row("versitygw", b.gatewayVersion())
	}
	row("rounds", fmt.Sprintf("%d, servers loaded for %s in each", b.rounds, b.seconds))
	return s.String()
}

// load is the load average over 1, 5 and 15 minutes, and what runs.
func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	f := strings.Fields(string(text))
	return strings.Join(f[:min(4, len(f))], " ")
}

// firstLine is what a program says first of itself; some exit with an error after it.
func firstLine(name string, args ...string) string {
	out, _ := exec.Command(name, args...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if line == "" {
		return "unknown"
	}
	return line
}

func moduleVersion(module string) string {
	info, _ := debug.ReadBuildInfo()
	if info != nil {
		for _, d := range info.Deps {
			if d.Path == module {
				return d.Version
			}
		}
	}
	return "unknown"
}

// gatewayVersion reads the pinned version; the program does not know it.
func (b *bench) gatewayVersion() string {
	text, _ := os.ReadFile(filepath.Join(b.source, "tools/go.mod"))
	m := regexp.MustCompile(`github.com/versity/versitygw (\S+)`).FindSubmatch(text)
	if m == nil {
		return "unknown"
	}
	return string(m[1])
}
