package deployment

import (
	"context"
	"errors"
	"fmt"
	"net/url"

	"narfold/internal/catalog"
	"narfold/internal/catalog/postgres"
	"narfold/internal/catalog/sqlite"
)

// passwordCredential is the systemd credential that stands for the password of the catalogue's database.
const passwordCredential = "narfold.database"

// openCatalogue opens the catalogue of a configuration, which is made if it is not there.
func openCatalogue(ctx context.Context, cfg Config) (catalog.Catalogue, error) {
	if cfg.Catalogue.Database == "" {
		db, err := sqlite.Open(ctx, database(cfg.State))
		if err != nil {
			return nil, err
		}
		return db, nil
	}
	password := cfg.Catalogue.PasswordFile
	if password == "" {
		password = credential(passwordCredential)
	}
	db, err := postgres.Open(ctx, cfg.Catalogue.Database, postgres.Options{PasswordFile: password})
	if err != nil {
		return nil, err
	}
	return db, nil
}

func (c *Catalogue) validate() error {
	if c.Database == "" {
		if c.PasswordFile != "" {
			return errors.New("catalogue.password_file: want catalogue.database too, whose password it holds")
		}
		return nil
	}
	u, err := url.Parse(c.Database)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return errors.New("catalogue.database: want the URL of a PostgreSQL database, such as postgres://narfold@db.example/narfold?sslmode=verify-full")
	}
	if _, has := u.User.Password(); has || u.Query().Has("password") {
		return errors.New("catalogue.database: has a password in it; put that into a file and name it as catalogue.password_file")
	}
	return absolute("catalogue.password_file", c.PasswordFile)
}

// ErrNotEmbedded says that the catalogue is in a database server, which has its own tools.
var ErrNotEmbedded = errors.New("the catalogue is in PostgreSQL")

// embedded refuses what is done with the file of an embedded catalogue.
func (c *Catalogue) embedded() error {
	if c.Database == "" {
		return nil
	}
	return Mistake("catalogue.database", fmt.Errorf("%w: back it up and restore it with pg_dump and pg_restore, or as its server is", ErrNotEmbedded))
}
