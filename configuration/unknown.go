package configuration

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// judge says what becomes of a key that has no field in file: a warning, an
// error, or nothing if the judgement on its table says it all. all is the whole
// document.
func judge(key toml.Key, all map[string]any) (warning string, err error) {
	name := key.String()
	table, last := key[:len(key)-1].String(), key[len(key)-1]
	value := lookUp(all, key)
	if why, ok := refused[name]; ok {
		if reflect.ValueOf(value).IsZero() || isEmptyList(value) {
			return "", nil
		}
		return "", fmt.Errorf("%s = %v cannot be had: %s", name, value, why)
	}
	if slices.Contains(strings.Fields(ignored[table]), last) {
		return fmt.Sprintf("%s means nothing here and is ignored", name), nil
	}
	if _, isTable := value.(map[string]any); isTable {
		switch {
		case ignored[name] != "":
			return "", nil // its keys are judged
		case table == "hypervisor":
			return "", fmt.Errorf("table [%s]: the one hypervisor is [hypervisor.clh]", name)
		}
		return "", fmt.Errorf("unknown table [%s]%s", name, suggest(name, tables()))
	}
	if !slices.Contains(tables(), table) {
		return "", nil // its table is judged
	}
	return "", fmt.Errorf("unknown key %q in table [%s]%s", last, table, suggest(last, keysOf(table)))
}

func lookUp(all map[string]any, key toml.Key) any {
	var value any = all
	for _, k := range key {
		m, _ := value.(map[string]any)
		value = m[k]
	}
	return value
}

func isEmptyList(v any) bool {
	l, ok := v.([]any)
	return ok && len(l) == 0
}

// fields maps each table to the type that it is read into.
var fields = map[string]reflect.Type{
	"hypervisor.clh": reflect.TypeFor[clhTable](),
	"agent.kata":     reflect.TypeFor[agentTable](),
	"runtime":        reflect.TypeFor[runtimeTable](),
}

func tables() []string {
	return slices.Sorted(maps.Keys(ignored))
}

// keysOf lists the names that may stand in a table.
func keysOf(table string) []string {
	keys := strings.Fields(ignored[table])
	if t := fields[table]; t != nil {
		for i := range t.NumField() {
			keys = append(keys, t.Field(i).Tag.Get("toml"))
		}
	}
	for name := range refused {
		if key, ok := strings.CutPrefix(name, table+"."); ok {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// suggest names the nearest of the known names if it is near enough for a slip.
func suggest(name string, known []string) string {
	best, least := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// distance is Levenshtein's: how many characters to insert, delete or replace.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// lineOf finds the line, from 1 on, on which a key or table is written; 0 if it
// is written in a way that this does not know.
func lineOf(text string, key toml.Key) int {
	table, name := key[:len(key)-1].String(), key.String()
	header := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "["); ok {
			header, _, _ = strings.Cut(strings.TrimLeft(h, "["), "]")
			header = strings.ReplaceAll(strings.TrimSpace(header), " ", "")
			if header == name || strings.HasPrefix(header, name+".") {
				return i + 1
			}
			continue
		}
		written, _, ok := strings.Cut(line, "=")
		written = strings.Trim(strings.TrimSpace(written), `"'`)
		if ok && (header == table && written == key[len(key)-1] || header == "" && written == name) {
			return i + 1
		}
	}
	return 0
}
