package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

// maxHelpWidth is the number of columns above which help texts are not made wider, as long lines are hard to read.
const maxHelpWidth = 110

// run runs the program in-process: args are what follows the program's name. Everything that it says to people goes to stderr,
// every answer to stdout.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) exitCode {
	if len(args) == 0 {
		run(ctx, []string{"--help"}, stdin, stderr, stderr)
		return exitUsage
	}
	var line commandLine
	answered := false
	parser, err := newParser(&line, stdout, stderr, func(int) { answered = true })
	if err != nil {
		fmt.Fprintf(stderr, "narfold: build the command line: %v\n", err)
		return exitRefused
	}
	parsed, err := parser.Parse(args)
	if answered { // by --help or --version; what else is wrong with the line does not matter then
		return exitDone
	}
	if err != nil {
		return reportUsage(stderr, err)
	}

	inv := newInvocation(ctx, line.globalFlags, stdin, stdout, stderr)
	parsed.BindTo(ctx, (*context.Context)(nil))
	err = parsed.Run(inv)
	if errors.Is(err, errUsage) {
		return reportUsage(stderr, &usageError{err, parsed.Selected()})
	}
	return report(ctx, stderr, err)
}

// newParser builds the parser of the grammar in line. It calls exit in place of leaving the program.
func newParser(line *commandLine, stdout, stderr io.Writer, exit func(int)) (*kong.Kong, error) {
	var headings []kong.Group
	for key, title := range groups {
		headings = append(headings, kong.Group{Key: key, Title: title})
	}
	return kong.New(line,
		kong.Name("narfold"),
		kong.Description("Build, keep, mirror and serve substitutes for GNU Guix and Nix.\n\n"+
			"Exit codes: 0 done, 1 refused or differs, 2 usage, 3 unavailable (try again), 4 damage found."),
		kong.Writers(stdout, stderr),
		kong.Exit(exit),
		kong.ExplicitGroups(headings),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, FlagsLast: true, WrapUpperBound: maxHelpWidth}),
		// Flags of values are written --flag VALUE and --flag=VALUE alike; a value may begin with a dash only in the second form.
	)
}

// usageError is a mistake in the command line that only the command could see.
type usageError struct {
	error
	command *kong.Node
}

func (e *usageError) Unwrap() error { return e.error }

// reportUsage prints what is wrong with the command line, and how the command that was meant is used.
func reportUsage(stderr io.Writer, err error) exitCode {
	var command *kong.Node
	var parse *kong.ParseError
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		command = usage.command
	case errors.As(err, &parse) && parse.Context != nil:
		command = lastNode(parse.Context)
	}
	fmt.Fprintf(stderr, "narfold: %v\n", err)
	printHint(stderr, err)
	if command == nil || command.Parent == nil {
		fmt.Fprintln(stderr, "usage: narfold COMMAND ...   (narfold --help lists the commands)")
		return exitUsage
	}
	fmt.Fprintf(stderr, "usage: narfold %s\n", strings.TrimSpace(command.Summary()))
	fmt.Fprintf(stderr, "  try: narfold %s --help\n", commandPath(command))
	return exitUsage
}

// lastNode returns the deepest command that the parser had come to.
func lastNode(c *kong.Context) *kong.Node {
	for i := len(c.Path) - 1; i >= 0; i-- {
		if c.Path[i].Command != nil {
			return c.Path[i].Command
		}
	}
	return nil
}

// commandPath returns the words of a command, without the program's name.
func commandPath(n *kong.Node) string {
	words := n.Name
	for p := n.Parent; p != nil && p.Parent != nil; p = p.Parent {
		words = p.Name + " " + words
	}
	return words
}
