// Package dnsgeo is the authoritative DNS server that answers one name with the nearest healthy mirrors, and the ACME DNS-01
// challenges for that name. It takes the health of mirrors from the fleet snapshot and never guesses it. It is not built yet.
package dnsgeo
