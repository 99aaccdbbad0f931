// libFuzzer target.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard let file = try? IDXFile(bytes: Array(UnsafeBufferPointer(start: data, count: size)), path: "fuzz") else {
        return 0
    }
    precondition(file.dimensions.reduce(1, *) == file.elements.count)
    if file.count > 0 { precondition(file.item(file.count - 1).endIndex == file.elements.endIndex) }
    return 0
}
