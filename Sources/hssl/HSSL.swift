@main struct HSSL { static func main() {} }
