// libFuzzer target.

@_cdecl("LLVMFuzzerTestOneInput")
public func fuzz(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
    guard let array =
        try? NPYArray(bytes: Array(UnsafeBufferPointer(start: data, count: size)), path: "fuzz.npy") else {
        return 0
    }
    precondition(array.shape.reduce(1, *) == array.values.count)
    return 0
}
