package tardev

// tableChunk is how many elements of a table are allocated at once.
const tableChunk = 1024

// table is a list that grows without moving what it has, so that it never needs
// the memory twice. Its elements should hold no pointers, which keeps the garbage
// collector out of it. The element 0 stands for none.
type table[T any] struct {
	chunks []*[tableChunk]T
	n      uint32 // elements, 0 included
}

// add appends an element and returns its number and place.
func (t *table[T]) add() (uint32, *T) {
	i := max(t.n, 1)
	if int(i/tableChunk) == len(t.chunks) {
		t.chunks = append(t.chunks, new([tableChunk]T))
	}
	t.n = i + 1
	return i, t.at(i)
}

func (t *table[T]) at(i uint32) *T {
	return &t.chunks[i/tableChunk][i%tableChunk]
}
