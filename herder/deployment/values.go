package deployment

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration written as "90s", "36h" or "30d", with days of 24 hours.
type Duration time.Duration

// UnmarshalText reads it. A negative one is an error.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	days, ok := strings.CutSuffix(s, "d")
	if n, err := strconv.ParseUint(days, 10, 16); ok && err == nil {
		*d = Duration(time.Duration(n) * 24 * time.Hour)
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a length of time such as 90s, 36h or 30d", s)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes it.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Size is a number of bytes written as "512MiB", "1GiB" or "1000000". KiB, MiB, GiB and TiB are powers of 1024.
type Size int64

// UnmarshalText reads it. A negative one is an error.
func (z *Size) UnmarshalText(text []byte) error {
	s, unit := string(text), int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, ok := strings.CutSuffix(s, suffix); ok {
			s, unit = strings.TrimSpace(number), int64(1)<<(10*(i+1))
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 || n > (1<<62)/unit {
		return fmt.Errorf("%q is not a size such as 512MiB or 1GiB", text)
	}
	*z = Size(n * unit)
	return nil
}

// MarshalText writes it.
func (z Size) MarshalText() ([]byte, error) { return strconv.AppendInt(nil, int64(z), 10), nil }
