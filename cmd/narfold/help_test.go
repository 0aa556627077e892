package main

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// TestEveryCommandIsExplained holds the help texts to testdata/help, so that packagers see in a diff what changes for scripts.
func TestEveryCommandIsExplained(t *testing.T) {
	t.Setenv("COLUMNS", "100")
	parser, err := newParser(&commandLine{}, io.Discard, io.Discard, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	known := map[string]bool{"narfold.txt": true}
	compareHelp(t, "narfold.txt")
	for _, leaf := range parser.Model.Leaves(false) {
		words := commandPath(leaf)
		t.Run(words, func(t *testing.T) {
			explained(t, leaf)
			file := strings.ReplaceAll(words, " ", "-") + ".txt"
			known[file] = true
			compareHelp(t, file, strings.Fields(words)...)
		})
	}
	entries, err := os.ReadDir("testdata/help")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !known[e.Name()] {
			t.Errorf("testdata/help/%s is of no command", e.Name())
		}
	}
}

// explained checks that a command says in a sentence and in a paragraph what it does, with examples of itself.
func explained(t *testing.T, command *kong.Node) {
	t.Helper()
	if !strings.HasSuffix(command.Help, ".") {
		t.Errorf("help %q: want one sentence", command.Help)
	}
	paragraph, examples, ok := strings.Cut(command.Detail, "\n\nExamples:\n")
	if !ok || len(paragraph) < 40 || !strings.Contains(examples, "narfold "+commandPath(command)) {
		t.Errorf("Help() %q: want a paragraph and examples of %q", command.Detail, commandPath(command))
	}
	if command.ClosestGroup() == nil {
		t.Error("the command has no group, or one that has no heading")
	}
	for _, flag := range command.Flags {
		if flag.Help == "" {
			t.Errorf("flag --%s has no help", flag.Name)
		}
	}
	for _, argument := range command.Positional {
		if argument.Help == "" {
			t.Errorf("argument %s has no help", argument.Name)
		}
	}
}

func compareHelp(t *testing.T, file string, command ...string) {
	t.Helper()
	stdout, stderr, code := narfold(t, nil, append(command, "--help")...)
	if code != exitDone || stderr != "" {
		t.Errorf("--help: exit code %d, said %q", code, stderr)
	}
	name := filepath.Join("testdata", "help", file)
	if *update {
		if err := os.WriteFile(name, stdout, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if string(stdout) != string(want) {
		t.Errorf("%s (see -update): %s", name, firstDifference(string(stdout), string(want)))
	}
}
