package manage

import (
	"fmt"
	"net/http"
	"time"

	"sallyport/proxy/usage"
)

// Usage is what has been used.
type Usage interface {
	Report(by usage.Kind, since time.Duration) (*usage.Report, error)
}

// longestReport is how far back a report may go: as far as anything is kept.
const longestReport = 5 * 365 * 24 * time.Hour

// usage shows what was used, by the query's `by` and since so long ago: a day, where
// `since` is missing.
func (s *Server) usage(w http.ResponseWriter, _ *http.Request, c *call, _ string) {
	by, since, err := readUsage(c.facts.Query)
	if err != nil {
		problem(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	report, err := s.options.Usage.Report(by, since)
	if err != nil {
		problem(w, http.StatusInternalServerError, err.Error(), "")
		return
	}
	reply(w, http.StatusOK, report)
}

// readUsage takes a query that has each parameter once at the most.
func readUsage(query map[string][]string) (by usage.Kind, since time.Duration, err error) {
	since = 24 * time.Hour
	if len(query["by"]) == 0 {
		return 0, 0, fmt.Errorf("by is missing: it is one of %s", usage.Kinds())
	}
	by, known := usage.ParseKind(query["by"][0])
	if !known {
		return 0, 0, fmt.Errorf("by is one of %s", usage.Kinds())
	}
	if text := query["since"]; text != nil {
		if since, err = time.ParseDuration(text[0]); err != nil || since <= 0 || since > longestReport {
			return 0, 0, fmt.Errorf(`since is a duration of s, m and h, such as "24h" or "168h", which is 7 days; of 43800h at the most`)
		}
	}
	return by, since, nil
}
