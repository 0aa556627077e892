package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"narfold/herder/deployment"
	"narfold/internal/catalog"
	"narfold/internal/durable"
)

// tokenCommands make and end the rights of those who publish.
type tokenCommands struct {
	Create tokenCreate `cmd:"" help:"Make a token."`
	List   tokenList   `cmd:"" help:"List the tokens."`
	Revoke tokenRevoke `cmd:"" help:"End a token."`
}

// tokenBook is where tokens are kept, open.
type tokenBook interface {
	catalog.Tokens
	io.Closer
}

// openTokens opens the catalogue of a deployment and nothing else of it, so that a token can be revoked while a bucket is away.
func (f deploymentFlags) openTokens(ctx context.Context, create bool) (tokenBook, deployment.Config, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, cfg, err
	}
	tokens, err := deployment.OpenCatalogue(ctx, cfg, create)
	if err != nil {
		return nil, cfg, f.openError(cfg, err)
	}
	return tokens, cfg, nil
}

type tokenCreate struct {
	deploymentFlags
	Scope   []string            `required:"" placeholder:"SCOPE" help:"What it allows: publish, mirror, read or admin. May be given several times."`
	Name    string              `placeholder:"NAME" help:"Who it is for. Default: the scopes and the date."`
	Expires deployment.Duration `placeholder:"DURATION" help:"How long it is good, such as 30d. Default: until it is revoked."`
	Out     string              `placeholder:"FILE" help:"Write the token to this new file, readable by you alone, instead of printing it."`
}

// Help is shown by --help.
func (tokenCreate) Help() string {
	return `The token is shown once: only a hash of it is kept. Whoever holds it may do what its scopes allow. Give it to
"narfold push --token-file", or to Nix as the password of a netrc file.

Examples:
  narfold token create --state /var/lib/narfold --scope publish --name ci
  narfold token create --state /var/lib/narfold --scope publish --expires 30d --out ci.token`
}

// Run makes the token.
func (c *tokenCreate) Run(ctx context.Context, inv *invocation) (err error) {
	now := time.Now().UTC()
	t := catalog.Token{Name: c.Name, Created: now}
	for _, s := range c.Scope {
		scope, err := catalog.ParseScope(s)
		if err != nil {
			return usagef("--scope: %v", err)
		}
		t.Scopes = append(t.Scopes, scope)
	}
	if c.Expires > 0 {
		t.Expires = now.Add(time.Duration(c.Expires))
	}
	if t.Name == "" {
		t.Name = strings.Join(c.Scope, "+") + "-" + now.Format("20060102-150405")
	}
	if strings.ContainsFunc(t.Name, unicode.IsControl) {
		return usagef("--name: %q has a control character", t.Name)
	}
	tokens, _, err := c.openTokens(ctx, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	text := catalog.NewTokenText()
	// Kept before it is good, so that no right is given that nobody holds.
	if c.Out != "" {
		if err := durable.CreateFile(c.Out, []byte(text+"\n"), 0o600); err != nil {
			return fmt.Errorf("keep token: %w", err)
		}
	}
	if err := tokens.AddToken(ctx, t, catalog.HashToken(text)); err != nil {
		if c.Out != "" {
			err = errors.Join(err, durable.Remove(c.Out))
		}
		return err
	}
	answer := struct {
		catalog.Token
		Text string `json:"token,omitempty"`
		File string `json:"file,omitempty"`
	}{Token: t, File: c.Out}
	if c.Out == "" {
		answer.Text = text
	}
	return inv.answer(answer, func(w io.Writer) {
		if c.Out == "" {
			fmt.Fprintln(w, text)
			return
		}
		fmt.Fprintf(w, "token %q is in %s\n", t.Name, c.Out)
	})
}

type tokenList struct {
	deploymentFlags
}

// Help is shown by --help.
func (tokenList) Help() string {
	return `Lists tokens with what they allow and whether they are still good. The tokens themselves are not kept.

Examples:
  narfold token list --state /var/lib/narfold`
}

// Run lists them.
func (c *tokenList) Run(ctx context.Context, inv *invocation) (err error) {
	from, _, err := c.openTokens(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	tokens, err := from.ListTokens(ctx)
	if err != nil {
		return err
	}
	if tokens == nil {
		tokens = []catalog.Token{} // [] in JSON, and not null
	}
	return inv.answer(tokens, func(w io.Writer) {
		tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "NAME\tSCOPES\tCREATED\tSTATE")
		for _, t := range tokens {
			scopes := make([]string, len(t.Scopes))
			for i, s := range t.Scopes {
				scopes[i] = string(s)
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", t.Name, strings.Join(scopes, ","), t.Created.Format("2006-01-02"), tokenState(t, time.Now()))
		}
		tw.Flush()
	})
}

func tokenState(t catalog.Token, now time.Time) string {
	switch {
	case !t.Revoked.IsZero():
		return "revoked " + t.Revoked.Format("2006-01-02")
	case t.Expires.IsZero():
		return "good"
	case now.Before(t.Expires):
		return "good until " + t.Expires.Format("2006-01-02 15:04")
	}
	return "expired " + t.Expires.Format("2006-01-02")
}

type tokenRevoke struct {
	deploymentFlags
	Name string `arg:"" help:"The token's name."`
}

// Help is shown by --help.
func (tokenRevoke) Help() string {
	return `Ends a token at once, also for a herder that is running.

Examples:
  narfold token revoke --state /var/lib/narfold ci`
}

// Run ends it.
func (c *tokenRevoke) Run(ctx context.Context, inv *invocation) (err error) {
	tokens, cfg, err := c.openTokens(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tokens.Close()) }()
	if err := tokens.RevokeToken(ctx, c.Name, time.Now()); err != nil {
		return hint(err, "narfold token list --state "+cfg.State)
	}
	return inv.answer(map[string]string{"revoked": c.Name}, func(w io.Writer) { fmt.Fprintf(w, "token %q is revoked\n", c.Name) })
}
