// libFuzzer target.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard let file = try? IDXFile(bytes: Array(UnsafeBufferPointer(start: data, count: size)), path: "fuzz") else {
        return 0
    }
    guard let elements = try? file.elements() else { fatalError("elements of bytes in memory") }
    precondition(file.dimensions.reduce(1, *) == elements.count)
    if file.count > 0 {
        guard let last = try? file.item(file.count - 1) else { fatalError("an item of bytes in memory") }
        precondition(elements.suffix(file.itemSize) == last[...])
    }
    return 0
}
