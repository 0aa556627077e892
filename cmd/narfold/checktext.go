package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"narfold/herder/check"
	"narfold/internal/storepath"
)

// checkText tells a report to people: what is wrong first, with the step to take, and then the numbers.
type checkText struct {
	check.Report
	root  string // of a directory store, or ""
	flags deploymentFlags
}

func (r checkText) print(w io.Writer) {
	for _, f := range r.Findings {
		r.finding(w, f)
	}
	told := make(map[check.Kind]int64)
	for _, f := range r.Findings {
		told[f.Kind]++
	}
	for _, k := range []check.Kind{check.Missing, check.Size, check.Corrupt, check.Open, check.Unreadable, check.Unaccounted, check.Recent} {
		if n := r.Found[k] - told[k]; n > 0 {
			fmt.Fprintf(w, "%s: %d more\n", k, n)
		}
	}
	for _, i := range r.WaitingItems {
		fmt.Fprintf(w, "waiting since %s: %s\n  for: %s\n  try: narfold import or push what it waits for\n", day(i.Since), i.Item, some(i.Missing, int64(len(i.Missing))))
	}
	for _, d := range r.Differences {
		fmt.Fprintf(w, "differs: %s\n  published with nar %s; %s brought %s on %s\n  try: build it again: it does not build reproducibly\n", d.Item, d.Published, d.By, d.Other, day(d.Seen))
	}
	r.numbers(w)
}

func (r checkText) finding(w io.Writer, f *check.Finding) {
	if f.Key != "" {
		fmt.Fprintf(w, "%s: %s\n", f.Kind, f.Key)
	} else {
		fmt.Fprintf(w, "%s: %s\n", f.Kind, some(f.Items, int64(len(f.Items))))
	}
	fmt.Fprintf(w, "  %s\n", f.Detail)
	if f.Key != "" && len(f.Items) > 0 {
		fmt.Fprintf(w, "  item: %s\n", some(f.Items, int64(len(f.Items))))
	}
	if len(f.References) > 0 {
		fmt.Fprintf(w, "  not published: %s\n", some(f.References, int64(len(f.References))))
	}
	if f.Referrers > 0 {
		fmt.Fprintf(w, "  referenced by: %s\n", some(f.ReferrersFirst, f.Referrers))
	}
	fmt.Fprintf(w, "  try: %s\n", r.next(f))
}

// next is the step to take about a finding.
func (r checkText) next(f *check.Finding) string {
	where := "the object " + string(f.Key)
	if r.root != "" && f.Key != "" {
		where = filepath.Join(r.root, filepath.FromSlash(string(f.Key)))
	}
	switch f.Kind {
	case check.Missing, check.Size, check.Corrupt:
		if f.Segment > 0 {
			return fmt.Sprintf("narfold repair %s SOURCE, with a mirror or a copy of this feed, or bring back %s from a backup: %d bytes, %s", r.flags.text(), where, f.Size, f.SHA256)
		}
		if f.Size == 0 {
			return "bring back " + where + " from a backup"
		}
		if len(f.Items) == 0 {
			return fmt.Sprintf("bring back %s from a backup or a mirror: %d bytes, %s", where, f.Size, f.SHA256)
		}
		item, err := storepath.Parse(f.Items[0])
		if err != nil {
			return "bring back " + where + " from a backup"
		}
		return fmt.Sprintf("narfold repair %s --item %s SOURCE, or bring back %s from a backup: %d bytes, %s", r.flags.text(), item.HashPart(), where, f.Size, f.SHA256)
	case check.Open:
		return "narfold import the references from where the item came, or restore a backup of the catalogue"
	case check.Unreadable:
		return "the check again; if it stays so, look after the disk or the server that holds " + where
	case check.Recent:
		return "the check again when what is on its way has come"
	}
	if strings.HasPrefix(string(f.Key), "log/") {
		return "keep it, or delete " + where + " while no herder runs"
	}
	return "narfold check --remove-unknown " + r.flags.text() + ", if nothing but this deployment uses the store"
}

// text returns the flags as they are written on the command line.
func (f deploymentFlags) text() string {
	var parts []string
	if f.State != "" {
		parts = append(parts, "--state "+f.State)
	}
	if f.Config != "" {
		parts = append(parts, "--config "+f.Config)
	}
	return strings.Join(parts, " ")
}

func (r checkText) numbers(w io.Writer) {
	fmt.Fprintf(w, "%d published items with %d files, %s; %d objects, %s", r.Items, r.Files, sizeText(r.FileBytes), r.Objects, sizeText(r.ObjectBytes))
	if r.Logs > 0 {
		fmt.Fprintf(w, ", of them %d logs", r.Logs)
	}
	if r.Feed > 0 {
		fmt.Fprintf(w, ", of them %d of the change feed", r.Feed)
	}
	fmt.Fprintln(w)
	if r.Sample > 0 {
		fmt.Fprintf(w, "%d files expanded and found right, %s\n", r.Expanded, sizeText(r.ExpandedBytes))
	}
	if r.Uploads > 0 {
		fmt.Fprintf(w, "%d uploads under way or left over, %d with an object, %s; %d are waited for\n", r.Uploads, r.UploadObjects, sizeText(r.UploadBytes), r.UploadsAwaited)
		if r.Uploads > r.UploadsAwaited {
			fmt.Fprintf(w, "  try: run again what was interrupted, or narfold check --remove-abandoned %s\n", r.flags.text())
		}
	}
	if r.RemovedUploads+r.RemovedUnknown > 0 {
		fmt.Fprintf(w, "removed: %d abandoned uploads, %d unknown objects\n", r.RemovedUploads, r.RemovedUnknown)
	}
	if r.KeptUnknown != "" {
		fmt.Fprintf(w, "unknown objects were not removed: %s\n", r.KeptUnknown)
	}
	seconds := time.Duration(r.Seconds * float64(time.Second)).Round(10 * time.Millisecond)
	switch n := r.Damage(); {
	case n > 0:
		fmt.Fprintf(w, "damage: %d found, in %v\n", n, seconds)
	case r.Found[check.Unreadable] > 0:
		fmt.Fprintf(w, "%d objects could not be read, in %v\n", r.Found[check.Unreadable], seconds)
	case r.Found[check.Unaccounted] > 0:
		fmt.Fprintf(w, "no damage; %d objects are unaccounted for, in %v\n", r.Found[check.Unaccounted], seconds)
	default:
		fmt.Fprintf(w, "all is well, in %v\n", seconds)
	}
	if r.Incomplete != "" {
		fmt.Fprintf(w, "the check is incomplete: %s\n", r.Incomplete)
	}
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

// some names the first few of total.
func some[T ~string](names []T, total int64) string {
	const most = 3
	var parts []string
	for _, n := range names[:min(len(names), most)] {
		parts = append(parts, string(n))
	}
	s := strings.Join(parts, ", ")
	if more := total - int64(len(parts)); more > 0 {
		s += fmt.Sprintf(" and %d more", more)
	}
	return s
}
