package feedserver

import (
	"context"
	"slices"
	"strings"
	"time"

	"narfold/internal/feed"
	"narfold/internal/objstore"
)

// sweep removes the files of snapshots that were replaced long enough ago. A file goes when no index names it that was shown within Keep,
// and when it is older than Keep itself, since it may be of a snapshot that is being made.
func (s *Server) sweep(ctx context.Context, current feed.Snapshot, now time.Time) error {
	keep := s.snapshots.Keep
	var indexes, parts []objstore.Info
	for info, err := range s.store.List(ctx, string(snapshotPrefix)) {
		if err != nil {
			return err
		}
		if strings.HasSuffix(string(info.Key), indexSuffix) {
			indexes = append(indexes, info)
		} else {
			parts = append(parts, info)
		}
	}
	slices.SortFunc(indexes, func(a, b objstore.Info) int { return a.Modified.Compare(b.Modified) })
	var old []objstore.Key
	wanted := make(map[objstore.Key]bool)
	for i, info := range indexes {
		replaced := now
		if i+1 < len(indexes) {
			replaced = indexes[i+1].Modified
		}
		if info.Key != indexKey(current.Index) && now.Sub(info.Modified) > keep && now.Sub(replaced) > keep {
			old = append(old, info.Key)
			continue
		}
		text, err := readNamed(ctx, s.store, info.Key)
		if err != nil {
			return err
		}
		named, err := feed.ParseIndex(text)
		if err != nil {
			return err
		}
		for _, p := range named {
			wanted[partKey(p.SHA256)] = true
		}
	}
	for _, info := range parts {
		if !wanted[info.Key] && now.Sub(info.Modified) > keep {
			old = append(old, info.Key)
		}
	}
	// The indexes come first: none is left without its parts.
	for _, k := range old {
		if err := s.snapshots.Deleter.Delete(ctx, k); err != nil {
			return err
		}
	}
	if len(old) > 0 {
		s.log.Info("files of old snapshots removed", "files", len(old))
	}
	return nil
}
