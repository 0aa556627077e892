package deployment_test

import (
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"narfold/herder/deployment"
)

func TestACatalogueIsNotUsedWithOtherObjects(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "b")
	state := filepath.Join(t.TempDir(), "state")
	log := slog.New(slog.DiscardHandler)
	open := func(objects deployment.Objects) error {
		cfg := deployment.Defaults(state)
		objects.PathStyle = cfg.Objects.PathStyle
		cfg.Objects = objects
		d, err := deployment.Open(t.Context(), cfg, true, log)
		if err == nil {
			err = d.Close()
		}
		return err
	}
	if err := open(deployment.Objects{}); err != nil {
		t.Fatal(err)
	}
	if err := open(deployment.Objects{Directory: filepath.Join(state, "objects")}); err != nil {
		t.Errorf("the same folder by its name: %v", err)
	}
	for name, other := range map[string]deployment.Objects{
		"another folder": {Directory: t.TempDir()},
		"a bucket":       {Endpoint: "http://127.0.0.1:1", Bucket: "b"},
	} {
		if err := open(other); !errors.Is(err, deployment.ErrElsewhere) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
