package postgres

const (
	herderURL  = "NARFOLD_TEST_HERDER_URL"
	herderSeed = "NARFOLD_TEST_HERDER_SEED"
)

func herd(url, seed string) {}
