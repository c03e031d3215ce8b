// NetCDF, written here: the classic format with 64-bit offsets (CDF-2), which every reader knows.

const DIMENSION = 10;
const VARIABLE = 11;
const ATTRIBUTE = 12;
const CHAR = 2;
const TYPES = { Float32Array: { code: 5, bytes: 4, put: "setFloat32" }, Float64Array: { code: 6, bytes: 8, put: "setFloat64" } };

const padded = (size) => Math.ceil(size / 4) * 4;
const typeOf = (values) => TYPES[values.constructor.name];

/** Header of the file: begun with zeros as offsets to learn its length, then with the real ones. */
class Header {
  parts = [];

  number(value) {
    const view = new DataView(new ArrayBuffer(4));
    view.setInt32(0, value);
    this.parts.push(view);
  }

  offset(value) {
    const view = new DataView(new ArrayBuffer(8));
    view.setBigInt64(0, BigInt(value));
    this.parts.push(view);
  }

  text(value) {
    const bytes = new TextEncoder().encode(value);
    this.number(bytes.length);
    const room = new Uint8Array(padded(bytes.length));
    room.set(bytes);
    this.parts.push(room);
  }

  list(tag, entries, write) {
    this.number(entries.length ? tag : 0);
    this.number(entries.length);
    entries.forEach(write);
  }

  attributes(entries) {
    this.list(ATTRIBUTE, Object.entries(entries), ([name, value]) => {
      this.text(name);
      this.number(CHAR);
      this.text(String(value));
    });
  }

  get length() {
    return this.parts.reduce((sum, part) => sum + part.byteLength, 0);
  }
}

/**
 * The bytes of a file, as parts of a Blob. `dimensions` is {name: length}; `variables` is [{name, dimensions, values,
 * attributes}] with Float32Array or Float64Array in C order; `attributes` are texts.
 */
export function netcdf(dimensions, variables, attributes) {
  const names = Object.keys(dimensions);
  const size = (variable) => padded(variable.values.length * typeOf(variable.values).bytes);
  const header = (begins) => {
    const head = new Header();
    head.parts.push(new TextEncoder().encode("CDF\x02"));
    head.number(0);
    head.list(DIMENSION, names, (name) => {
      head.text(name);
      head.number(dimensions[name]);
    });
    head.attributes(attributes);
    head.list(VARIABLE, variables, (variable, index) => {
      head.text(variable.name);
      head.number(variable.dimensions.length);
      for (const name of variable.dimensions) head.number(names.indexOf(name));
      head.attributes(variable.attributes ?? {});
      head.number(typeOf(variable.values).code);
      head.number(size(variable));
      head.offset(begins[index]);
    });
    return head;
  };
  let place = header(variables.map(() => 0)).length;
  const begins = variables.map((variable) => {
    const begin = place;
    place += size(variable);
    return begin;
  });
  return [...header(begins).parts, ...variables.map((variable) => bigEndian(variable.values, size(variable)))];
}

function bigEndian(values, length) {
  const { bytes, put } = typeOf(values);
  const view = new DataView(new ArrayBuffer(length));
  values.forEach((value, index) => view[put](bytes * index, value));
  return view;
}
